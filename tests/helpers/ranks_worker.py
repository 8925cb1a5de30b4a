"""One of the processes that train every case of ``test_ranks``, started by it, on gloo.

python ranks_worker.py FOLDER [CASE ...]
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import tiny
import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from equipoise.distributed.ranks import launched
from equipoise.methods import AFA, AFS, OAT, Gate, SingleNetwork
from equipoise.models import BranchedNetwork, WideResNet, with_branches
from equipoise.objectives import AVM, MART, PGDAT, TRADES
from equipoise.training import Trainer, TrainingConfig, checkpoint, fit
from equipoise.training.schedule import Schedule
from equipoise.training.stage import Stage

PLAIN = Gate()
SHORT = Schedule(epochs=2, learning_rate=0.05)
LOOP = replace(
    tiny.LOOP, sync_batch_norm=True, checkpoint_seconds=1e9, alarms=True, validation_steps=2
)
TRAIN, HELD_OUT = tiny.digits(train=48).train, tiny.split(21, seed=3)
IMAGES = {"train": TRAIN, "validation": HELD_OUT}  # 21 is not divisible by 2 or 16


class Double(nn.Module):
    """Network in float64, so that rounding cannot flip the sign of a gradient and hide bugs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.double())


def network() -> nn.Module:
    return Double(tiny.wide_resnet())


def colour_network() -> nn.Module:
    """Build a network on three channels, for which the memory layout of images matters."""
    inner = WideResNet(depth=10, width=1, classes=10, channels=3)
    return Double(nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), inner))


def single(objective: Any, **changes: Any) -> Stage:
    method = SingleNetwork(
        objective=objective, epsilon=0.1, attack=tiny.ATTACK, schedule=SHORT, **changes
    )
    return method.stages(colour_network)[0]


def afa(gate: Gate = PLAIN) -> tuple[Stage, ...]:
    method = AFA(
        objective=PGDAT(),
        strengths=(0.0, 0.05, 0.1),
        attack=tiny.ATTACK,
        schedule=SHORT,
        gate=gate,
        gate_schedule=SHORT,
    )
    return tuple(method.stages(network))


def branched() -> BranchedNetwork:
    return with_branches(tiny.wide_resnet(), 3)


def merger(split_batch: bool) -> Stage:
    method = AFS(
        objective=PGDAT(),
        budgets=(0.0, 0.1),
        attack=tiny.ATTACK,
        schedule=SHORT,
        merger_schedule=SHORT,
        merger_epsilon=0.1,
        split_batch=split_batch,
    )
    return method.stages(tiny.wide_resnet)[-1]


def oat(**changes: Any) -> Stage:
    method = OAT(epsilon=0.1, attack=tiny.ATTACK, schedule=SHORT, size=16, **changes)
    return method.stages(network)[0]


EXTRACTORS = {
    "extractor0_0": tiny.wide_resnet(seed=1).eval(),
    "extractor1_0.1": tiny.wide_resnet(seed=2).eval(),
}
GUIDED_GATE = Gate(pairs=True, lead=0.5, detection=1.0)
LAYER_GATE = Gate(placement="layer", layer="stages.0")
Case = tuple[Callable[[], Stage], Mapping[str, nn.Module], TrainingConfig]
CASES: dict[str, Case] = {
    "pgd_at": (lambda: single(PGDAT()), {}, LOOP),
    "branches": (lambda: afa()[0], {}, LOOP),
    "gate": (lambda: afa(GUIDED_GATE)[1], {"branches": branched()}, LOOP),
    "gate_layer": (lambda: afa(LAYER_GATE)[1], {"branches": branched()}, LOOP),
    "merger": (lambda: merger(False), EXTRACTORS, LOOP),
    "merger_split": (lambda: merger(True), EXTRACTORS, LOOP),
    "oat": (oat, {}, LOOP),
    "oat_mostly_clean": (lambda: oat(zero_share=0.9, objective=AVM()), {}, LOOP),
    "trades": (lambda: single(TRADES()), {}, LOOP),
    "mart_awp": (lambda: single(MART()), {}, replace(LOOP, awp_gamma=0.01)),
    "budgets_swa": (
        lambda: single(PGDAT(), random_budgets=(0.5, 1.0), norm="L2"),
        {},
        replace(LOOP, averaging="swa", averaging_start=0.4),
    ),
}


def train(name: str, folder: Path, fabric: Any) -> dict[str, Tensor]:
    """Train one case and return its weights."""
    stage, needed, loop = CASES[name]
    torch.manual_seed(0)
    chosen = replace(stage(), keep="last")
    task: Any = chosen.build(needed)
    fit(Trainer(chosen, task, loop, fabric, seed=0), **IMAGES, folder=folder / name)
    return tiny.weights(task)


def count_reductions(fabric: Any, reductions: list[int]) -> None:
    """Record the number of gradients in each reduction of every task that Fabric wraps."""
    setup = fabric.setup

    def record(_: Any, bucket: torch.distributed.GradBucket):  # torch reads this annotation
        reductions.append(bucket.buffer().numel())
        return default_hooks.allreduce_hook(None, bucket)

    def wrapped(*given: Any) -> Any:
        wrapped_objects = setup(*given)
        wrapped_objects[0]._forward_module.register_comm_hook(None, record)
        return wrapped_objects

    fabric.setup = wrapped


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    fabric = launched(LOOP.precision, LOOP.batch_size, devices=2, accelerator="cpu")
    reductions: list[int] = []
    count_reductions(fabric, reductions)
    for name in names or CASES:
        reductions.clear()
        weights = train(name, folder, fabric)
        path = folder / f"{name}.{fabric.global_rank}.safetensors"
        path.write_bytes(checkpoint.pack(weights, {"reductions": reductions}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
