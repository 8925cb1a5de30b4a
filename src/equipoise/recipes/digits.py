"""Recipes on scikit-learn's digits: every method, each trained in under a minute on two cores.

All share one backbone, schedule, attack and evaluation.
"""

from dataclasses import replace

from equipoise.data import Augmentation, Digits
from equipoise.methods import AFA, AFS, OAT, Gate, SingleNetwork, TrainingAttack
from equipoise.objectives import AVM, FAT, IAT, LBGAT, MART, PGDAT, TLA, TRADES, Standard
from equipoise.recipes.networks import WideResNetShape
from equipoise.recipes.recipe import Evaluation, Recipe, variant
from equipoise.training import TrainingConfig
from equipoise.training.schedule import Schedule

STRENGTHS = (0.0, 0.05, 0.1, 0.15, 0.2)
"""Larger than on photographs, because digits are bright strokes on black, 8x8 pixels."""

TOP = STRENGTHS[-1]
ATTACK = TrainingAttack(steps=5, relative_step=0.4)
SCHEDULE = Schedule(epochs=30, learning_rate=0.2, shape="one_cycle")
"""0.2 is PGD-AT's best of 0.1, 0.2 and 0.3 (benchmarks/choose_settings.json)."""

GUIDED_GATE = Gate(pairs=True, lead=0.5, detection=1.0, hidden=32, ceiling=0.05)
"""Trained on clean and attacked pairs with a detection loss, first through the robust branch.
Measurements: docs/decisions/006-guided-gate.md and 007."""


def standard_digits() -> Recipe:
    """Standard training on digits."""
    method = SingleNetwork(objective=Standard(), epsilon=0.0, schedule=SCHEDULE)
    return _recipe("standard_digits", method)


def pgd_at_digits() -> Recipe:
    """PGD-AT at the highest strength on digits."""
    method = SingleNetwork(objective=PGDAT(), epsilon=TOP, attack=ATTACK, schedule=SCHEDULE)
    return _recipe("pgd_at_digits", method)


def afa_digits() -> Recipe:
    """AFA over PGD-AT on digits, K = 3, with a guided gate."""
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
        merger_epsilon=TOP,
    )
    return _recipe("afs_digits", method)


def trades_digits() -> Recipe:
    """TRADES, beta 6."""
    return variant(pgd_at_digits(), "trades_digits", objective=TRADES())


def mart_digits() -> Recipe:
    """MART, beta 5."""
    return variant(pgd_at_digits(), "mart_digits", objective=MART())


def iat_digits() -> Recipe:
    """Interpolated adversarial training."""
    return variant(pgd_at_digits(), "iat_digits", objective=IAT())


def fat_digits() -> Recipe:
    """Friendly adversarial training over PGD-AT, stopped one step after success."""
    return variant(pgd_at_digits(), "fat_digits", objective=FAT(over=PGDAT(), tau=1))


def fat_trades_digits() -> Recipe:
    """Friendly adversarial training over TRADES."""
    return variant(pgd_at_digits(), "fat_trades_digits", objective=FAT(over=TRADES(), tau=1))


def fat_mart_digits() -> Recipe:
    """Friendly adversarial training over MART."""
    return variant(pgd_at_digits(), "fat_mart_digits", objective=FAT(over=MART(), tau=1))


def tla_digits() -> Recipe:
    """Triplet loss adversarial training."""
    return variant(pgd_at_digits(), "tla_digits", objective=TLA(noise=TOP))


def lbgat_digits() -> Recipe:
    """Learnable boundary guided training, with a teacher of the student's architecture."""
    return variant(pgd_at_digits(), "lbgat_digits", objective=LBGAT())


def avm_digits() -> Recipe:
    """Adversarial vertex mixup, which masks gradients; the self-checks report it."""
    return variant(pgd_at_digits(), "avm_digits", objective=AVM())


def random_budget_digits() -> Recipe:
    """PGD-AT with a strength drawn for each image."""
    return variant(pgd_at_digits(), "random_budget_digits", random_budgets=STRENGTHS)


def oat_digits() -> Recipe:
    """Once-for-all adversarial training, with FiLM layers initialised to the identity."""
    method = OAT(
        epsilon=TOP,
        attack=ATTACK,
        schedule=SCHEDULE,
        encoding="none",
        size=1,
        start="identity",
    )
    return _recipe("oat_digits", method)


def afa_trades_digits() -> Recipe:
    """AFA over TRADES."""
    return variant(afa_digits(), "afa_trades_digits", objective=TRADES())


def afa_mart_digits() -> Recipe:
    """AFA over MART."""
    return variant(afa_digits(), "afa_mart_digits", objective=MART())


def afa_iat_digits() -> Recipe:
    """AFA over IAT."""
    return variant(afa_digits(), "afa_iat_digits", objective=IAT())


def afs_trades_digits() -> Recipe:
    """AFS whose extractors are trained with TRADES."""
    return variant(afs_digits(), "afs_trades_digits", objective=TRADES())


def afs_one_budget_digits() -> Recipe:
    """AFS of three extractors of one budget, to separate stacking budgets from ensembling."""
    return variant(afs_digits(), "afs_one_budget_digits", budgets=(TOP, TOP, TOP))


def _afa(gate: Gate) -> AFA:
    return AFA(
        objective=PGDAT(),
        strengths=(0.0, 0.1, 0.2),
        attack=ATTACK,
        schedule=replace(SCHEDULE, learning_rate=0.3),  # AFA's best of 0.2 and 0.3
        gate=gate,
        gate_schedule=replace(SCHEDULE, epochs=12, learning_rate=0.1),
    )


def _recipe(name: str, method: SingleNetwork | AFA | AFS | OAT) -> Recipe:
    return Recipe(
        name=name,
        dataset=Digits(),
        network=WideResNetShape(depth=10, width=1),
        method=method,
        loop=TrainingConfig(
            batch_size=64,
            validation_images=200,
            validate_every=2,
            augmentation=Augmentation(shift=1, padding="reflect"),
            precision="bf16-mixed",
        ),
        evaluation=Evaluation(epsilons=STRENGTHS),
    )
