"""What folded batch norms and their own backward pass are worth in a training step.

Each network is one that recipes train, with the attack that they train it with. ``folded`` is what
training does; ``frozen norms`` leaves the folding out; ``plain`` also leaves out the backward pass
that takes no sums for parameters without a gradient.

Run it from the repository: ``python benchmarks/attack_mode.py``.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from steps import batch, network, our_step, pgd_task
from timing import comparison, settings, take_turns
from timing import write_record as write
from torch import Tensor, nn

from equipoise.methods import training_attack
from equipoise.models.attack_mode.context import attack_mode

NETWORKS = {
    "afa_cifar10_paper, afs_cifar10_paper": (28, 10, 4, 10, 32, "32-true"),
    "the same in bf16": (28, 10, 4, 10, 32, "bf16-mixed"),
    "pgd_at_cifar10_compact with ten steps": (10, 2, 128, 10, 32, "bf16-mixed"),
    "pgd_at_cifar10_compact": (10, 2, 128, 1, 32, "bf16-mixed"),
    "pgd_at_digits": (10, 1, 128, 5, 8, "32-true"),
}
"""Depth, width, batch, attack steps, image side and precision by the recipes that have them."""


@contextlib.contextmanager
def frozen_norms(module: nn.Module, mode: Any = "eval", fold: bool = False) -> Iterator[None]:
    """Attack mode without folding."""
    with attack_mode(module, mode):
        yield


@contextlib.contextmanager
def plain(module: nn.Module, mode: Any = "eval", fold: bool = False) -> Iterator[None]:
    """Eval mode without gradients of parameters, and nothing else."""
    training = {child: child.training for child in module.modules()}
    required = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    module.train(mode == "train")
    for parameter, _ in required:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for child, was_training in training.items():
            child.training = was_training
        for parameter, did_require in required:
            parameter.requires_grad_(did_require)


def step_in(mode: Any, shape: tuple[int, int, int, int, int, str]) -> Callable[[], Tensor]:
    """A training step whose attack uses one of the three modes."""
    depth, width, count, steps, side, precision = shape
    step = our_step(pgd_task(network(depth, width), steps), *batch(count, side), precision)

    def run() -> Tensor:
        training_attack.attack_mode = mode  # type: ignore[assignment]
        try:
            return step()
        finally:
            training_attack.attack_mode = attack_mode

    return run


def one(recipes: str, rounds: int) -> dict[str, Any]:
    """Compare the three modes on one network."""
    shape = NETWORKS[recipes]
    depth, width, count, steps, side, precision = shape
    modes = {"folded": attack_mode, "frozen norms": frozen_norms, "plain": plain}
    turns = take_turns({name: step_in(mode, shape) for name, mode in modes.items()}, rounds)
    what = f"PGD-{steps} step, WRN-{depth}-{width}, {side}x{side}, batch {count}, {precision}"
    return {
        "recipes": recipes,
        "comparisons": [
            comparison(turns, what, "folded", "plain", goal=1.1),
            comparison(turns, what, "folded", "frozen norms"),
        ],
    }


def main() -> None:
    """Run, print, write the record."""
    given = settings(__doc__, rounds=11, large_rounds=5)
    networks = [
        one(recipes, given.large_rounds if shape[0] == 28 else given.rounds)
        for recipes, shape in NETWORKS.items()
    ]
    write(__file__, given, {"networks": networks})


if __name__ == "__main__":
    main()
