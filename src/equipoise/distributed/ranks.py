"""The processes that share each step of a stage (ranks), and what they have to agree on."""

import atexit
import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from equipoise.distributed.shared_generator import SharedGenerator
from equipoise.distributed.sync_batch_norm import synchronised
from equipoise.runtime.errors import RunError, TrainingError
from equipoise.runtime.seeds import derive_seed

Strategy = Literal["auto", "ddp"]
Precision = Literal["32-true", "bf16-mixed"]
_Answer = TypeVar("_Answer")


def launched(
    precision: Precision,
    batch_size: int,
    *,
    devices: int = 1,
    nodes: int = 1,
    strategy: Strategy = "auto",
    accelerator: str = "auto",
) -> Fabric:
    """Start, or join, the processes that train together.

    Under torchrun or srun they are there already, one a device; otherwise this process starts the
    others of its machine, which run the same command.

    Args:
        precision: Of the networks' operations, as ``TrainingConfig.precision``.
        batch_size: Images a step, of all processes together.
        devices: Processes a machine, one device each.
        nodes: Machines.
        strategy: ``"auto"`` is ``"ddp"`` where there are several processes.
        accelerator: As Fabric names them.

    Returns:
        Fabric, launched.

    Raises:
        TrainingError: If the batch cannot be shared out evenly.
    """
    world = devices * nodes
    if devices < 1 or nodes < 1:
        raise TrainingError(f"devices and nodes must be 1 or more, got {devices} and {nodes}.")
    check_shares(batch_size, world)
    chosen: DDPStrategy | str = "auto"
    if world > 1 or strategy == "ddp":
        # Which parameters a step reaches may depend on its images (OAT). Where all of them are
        # reached, torch says once that it need not have looked.
        chosen = DDPStrategy(find_unused_parameters=True)
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=chosen,
        precision=precision,
    )
    fabric.launch()
    if torch.distributed.is_initialized():
        atexit.register(_leave)
    return fabric


def _leave() -> None:
    """End torch's process group while the interpreter is whole; Fabric does so for NCCL alone.

    Gloo's threads, left to the end of the process, may abort it ("terminate called").
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def keep_inputs(fabric: Fabric) -> Fabric:
    """Let images reach a task as they are, in mixed precision too.

    Fabric rounds a module's floating inputs to the lower precision. Between 0.5 and 1 bfloat16 has
    steps of 1/256, as long as the strengths that are trained at; a network's own operations are
    cast by autocast.

    Args:
        fabric: Changed in place.

    Returns:
        The same.
    """
    precision = fabric.strategy.precision
    if isinstance(precision, MixedPrecision):
        vars(precision)["convert_input"] = _unchanged
    return fabric


def _unchanged(data: Any) -> Any:
    return data


class Ranks:
    """All processes of a run, seen from one of them; with one alone, everything is as without.

    Args:
        fabric: Launched.

    Attributes:
        rank: Number of this process; 0 alone writes files.
        world: How many there are.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.rank, self.world = fabric.global_rank, fabric.world_size

    def generator(self, seed: int) -> torch.Generator:
        """A seeded generator on the device, in the same state on every rank."""
        device = self.fabric.device
        if self.world == 1:
            return torch.Generator(device).manual_seed(seed)
        made = SharedGenerator.of(device, self.rank, self.world)
        made.manual_seed(seed)
        return made

    def seed_step(self, seed: int, step: int) -> None:
        """Seed the global generators of this rank for one step, where there are several ranks.

        Layers that draw from them, such as dropout, then differ between ranks, and a checkpoint
        needs no rank's state.
        """
        if self.world > 1:
            seed_everything(derive_seed(seed, "rank", str(self.rank), str(step)))

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks."""
        if self.world == 1:
            return values
        total = self.fabric.all_reduce(values.clone(), reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set on any rank."""
        if self.world == 1:
            return list(flags)
        counts = self.sum(torch.tensor(flags, dtype=torch.long, device=self.fabric.device))
        return [count > 0 for count in counts.tolist()]

    def on_rank_zero(self, work: Callable[[], _Answer]) -> _Answer | None:
        """Do something on rank 0 alone while the others wait.

        Returns:
            The answer there, ``None`` elsewhere.

        Raises:
            RunError: On all ranks, if that or a ValueError was raised on rank 0.
        """
        if self.world == 1:
            return work()
        answer, error = None, None
        if self.rank == 0:
            try:
                answer = work()
            except (RunError, ValueError) as problem:
                error = problem
        said = self.fabric.broadcast(None if error is None else str(error))
        if said is not None:
            raise error or RunError(said)
        return answer

    def broadcast(self, value: _Answer) -> _Answer:
        """What rank 0 says."""
        return value if self.world == 1 else self.fabric.broadcast(value)

    def check_same(self, step: int, folder: Path) -> None:
        """Refuse to go on where ranks have read different files.

        Raises:
            TrainingError: If a rank stands at another step than rank 0.
        """
        if self.any(step != self.broadcast(step))[0]:
            raise TrainingError(
                f"the processes do not see the same checkpoint in {folder}. All machines must "
                "share the run folder: choose one on a shared file system with --out."
            )

    def share_buffers(self, module: nn.Module) -> None:
        """Give every rank the statistics of rank 0."""
        if self.world > 1:
            for buffer in module.buffers():
                torch.distributed.broadcast(buffer, 0)

    def synchronised(
        self, module: nn.Module, sync_batch_norm: bool
    ) -> contextlib.AbstractContextManager[None]:
        """Batch norms with the statistics of all ranks' images, where that is asked for."""
        if self.world > 1 and sync_batch_norm:
            return synchronised(module)
        return contextlib.nullcontext()


def check_shares(images: int, world: int) -> None:
    """Refuse a batch that cannot be shared out evenly.

    Raises:
        TrainingError: If so many processes cannot have equal parts of so many images.
    """
    if images % world:
        raise TrainingError(
            f"loop.batch_size is the batch of all processes together: {images} images cannot be "
            f"shared evenly by {world}. Choose a multiple of {world}."
        )


def seed_everything(seed: int) -> None:
    """Seed torch's, NumPy's and Python's global generators."""
    torch.manual_seed(seed)
    numpy.random.seed(seed % 2**32)
    random.seed(seed)
