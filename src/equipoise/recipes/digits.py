"""The demo's recipes: scikit-learn's digits, two cores, under a minute each."""

from dataclasses import replace

from equipoise.data import Augmentation, Digits
from equipoise.methods import AFA, AFS, Gate, Schedule, SingleNetwork, TrainingAttack
from equipoise.objectives import PGDAT, Standard
from equipoise.recipes.networks import WideResNetShape
from equipoise.recipes.recipe import Evaluation, Recipe
from equipoise.training import Loop

STRENGTHS = (0.0, 0.05, 0.1, 0.15, 0.2)
"""Bright strokes on black, 8x8: strengths that matter are larger than on photographs."""

ATTACK = TrainingAttack(steps=5, relative_step=0.4)
SCHEDULE = Schedule(epochs=30, learning_rate=0.2, shape="one_cycle")
"""0.2 is PGD-AT's best of 0.1, 0.2 and 0.3 (benchmarks/choose_settings.json)."""


GUIDED_GATE = Gate(pairs=True, lead=0.5, detection=1.0, hidden=32, ceiling=0.05)
"""A gate that is led to the attack; LOG.md says what each setting was measured to be worth."""


def standard_digits() -> Recipe:
    """Standard training on digits."""
    method = SingleNetwork(objective=Standard(), epsilon=0.0, schedule=SCHEDULE)
    return _recipe("standard_digits", method)


def pgd_at_digits() -> Recipe:
    """PGD-AT at the highest strength on digits."""
    method = SingleNetwork(
        objective=PGDAT(), epsilon=STRENGTHS[-1], attack=ATTACK, schedule=SCHEDULE
    )
    return _recipe("pgd_at_digits", method)


def afa_digits() -> Recipe:
    """AFA over PGD-AT on digits, K = 3, with a gate that is led to the attack."""
    return _recipe("afa_digits", _afa(GUIDED_GATE))


def afa_digits_plain() -> Recipe:
    """AFA over PGD-AT on digits with the paper's plain stage II."""
    return _recipe("afa_digits_plain", _afa(Gate()))


def afs_digits() -> Recipe:
    """AFS on digits: three extractors and a merger."""
    method = AFS(
        objective=PGDAT(),
        budgets=(0.15, 0.2, 0.25),
        attack=ATTACK,
        schedule=SCHEDULE,
        merger_schedule=replace(SCHEDULE, epochs=20, learning_rate=0.3),
        alpha=0.2,
        merger_epsilon=STRENGTHS[-1],
    )
    return _recipe("afs_digits", method)


def _afa(gate: Gate) -> AFA:
    return AFA(
        objective=PGDAT(),
        strengths=(0.0, 0.1, 0.2),
        attack=ATTACK,
        schedule=replace(SCHEDULE, learning_rate=0.3),  # AFA's best of 0.2 and 0.3
        gate=gate,
        gate_schedule=replace(SCHEDULE, epochs=12, learning_rate=0.1),
    )


def _recipe(name: str, method: SingleNetwork | AFA | AFS) -> Recipe:
    return Recipe(
        name=name,
        dataset=Digits(),
        network=WideResNetShape(depth=10, width=1),
        method=method,
        loop=Loop(
            batch_size=64,
            validation_images=200,
            validate_every=2,
            augmentation=Augmentation(shift=1, padding="reflect"),
            precision="bf16-mixed",
        ),
        evaluation=Evaluation(epsilons=STRENGTHS),
    )
