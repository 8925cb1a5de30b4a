"""Compact CIFAR-10 recipes: WRN-10-2 and a one-step inner attack, for two cores.

They show the mechanics on real photographs, not the papers' accuracies.
"""

from dataclasses import replace
from typing import Any

from equipoise.data import Augmentation, Cifar10
from equipoise.methods import AFA, AFS, Gate, Schedule, SingleNetwork, TrainingAttack
from equipoise.objectives import PGDAT, Standard
from equipoise.recipes.networks import WideResNetShape
from equipoise.recipes.recipe import Evaluation, Recipe
from equipoise.training import Loop

STRENGTHS = (0.0, 1 / 255, 2 / 255, 4 / 255, 8 / 255)

_ATTACK = TrainingAttack(steps=1, relative_step=1.25)
"""One step from a random start, the cheapest attack that trains (Wong et al. 2020)."""

GUIDED_GATE = Gate(pairs=True, lead=0.5, detection=1.0, hidden=32, ceiling=0.1)
"""Placement and ceiling are the best of those tried on validation images (LOG.md)."""

_SCHEDULE = Schedule(epochs=5, learning_rate=0.2, shape="one_cycle")


def standard_cifar10_compact() -> Recipe:
    """Standard training."""
    method = SingleNetwork(objective=Standard(), epsilon=0.0, schedule=_SCHEDULE)
    return _recipe("standard_cifar10_compact", method)


def pgd_at_cifar10_compact() -> Recipe:
    """Adversarial training at 8/255."""
    method = SingleNetwork(objective=PGDAT(), epsilon=8 / 255, attack=_ATTACK, schedule=_SCHEDULE)
    return _recipe("pgd_at_cifar10_compact", method)


def afa_cifar10_compact() -> Recipe:
    """AFA over PGD-AT, K = 3, with a gate that is led to the attack."""
    # SGD leaves the generator at chance for 600 steps where AdamW needs 150 (LOG.md).
    schedule = Schedule(epochs=1, learning_rate=3e-3, optimiser="adamw", shape="one_cycle")
    return _recipe("afa_cifar10_compact", _afa(GUIDED_GATE, schedule))


def afa_cifar10_compact_plain() -> Recipe:
    """AFA over PGD-AT, K = 3, with the paper's plain stage II."""
    return _recipe(
        "afa_cifar10_compact_plain", _afa(Gate(), replace(_SCHEDULE, epochs=1, learning_rate=0.02))
    )


def afa_split_cifar10_compact() -> Recipe:
    """AFA over PGD-AT, K = 3, each image attacked for one branch a step."""
    base = afa_cifar10_compact()
    method: Any = base.method
    return replace(base, name="afa_split_cifar10_compact", method=replace(method, split_batch=True))


def afs_cifar10_compact() -> Recipe:
    """AFS over budgets 0, 2, 4 and 8."""
    method = AFS(
        objective=PGDAT(),
        budgets=(0.0, 2 / 255, 4 / 255, 8 / 255),
        attack=_ATTACK,
        schedule=_SCHEDULE,
        merger_schedule=replace(_SCHEDULE, epochs=2, learning_rate=0.1),
        alpha=0.3,
        merger_epsilon=8 / 255,
    )
    return _recipe("afs_cifar10_compact", method)


def _afa(gate: Gate, schedule: Schedule) -> AFA:
    return AFA(
        objective=PGDAT(),
        strengths=(0.0, 4 / 255, 8 / 255),
        attack=_ATTACK,
        schedule=_SCHEDULE,
        gate=gate,
        gate_schedule=schedule,
    )


def _recipe(name: str, method: SingleNetwork | AFA | AFS) -> Recipe:
    return Recipe(
        name=name,
        dataset=Cifar10(),
        network=WideResNetShape(depth=10, width=2),
        method=method,
        loop=Loop(
            batch_size=128,
            validation_images=1000,
            augmentation=Augmentation(shift=4, padding="reflect", flip=True),
            precision="bf16-mixed",
        ),
        evaluation=Evaluation(epsilons=STRENGTHS, images=500, steps=10),
    )
