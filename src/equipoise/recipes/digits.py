"""Recipes on scikit-learn's digits: every method, each trained in under a minute on two cores.

All share one backbone, schedule, attack and evaluation.
"""

from dataclasses import replace

from equipoise.data import Augmentation, Digits
from equipoise.methods import AFA, AFS, OAT, Gate, SingleNetwork, TrainingAttack
from equipoise.objectives import AVM, FAT, GAT, IAT, LBGAT, MART, PGDAT, TLA, TRADES, Standard
from equipoise.recipes.networks import WideResNetShape
from equipoise.recipes.recipe import Evaluation, MakeRecipe, Recipe, objective_rows, variant
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
    """AFA over PGD-AT on digits with a plain stage II; its generator reads pixels."""
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


DIGITS: tuple[MakeRecipe, ...] = (
    standard_digits,
    pgd_at_digits,
    afa_digits,
    afa_digits_plain,
    afs_digits,
    *objective_rows(
        pgd_at_digits,
        {
            "trades_digits": ("TRADES, beta 6.", TRADES()),
            "mart_digits": ("MART, beta 5.", MART()),
            "iat_digits": ("Interpolated adversarial training.", IAT()),
            "fat_digits": (
                "Friendly adversarial training over PGD-AT, stopped one step after the flip.",
                FAT(over=PGDAT(), tau=1),
            ),
            "fat_trades_digits": (
                "Friendly adversarial training over TRADES.",
                FAT(over=TRADES(), tau=1),
            ),
            "fat_mart_digits": (
                "Friendly adversarial training over MART.",
                FAT(over=MART(), tau=1),
            ),
            "tla_digits": ("Triplet loss adversarial training.", TLA(noise=TOP)),
            "lbgat_digits": (
                "Learnable boundary guided training, with a teacher of the student's architecture.",
                LBGAT(),
            ),
            "avm_digits": (
                "Adversarial vertex mixup, which hides gradients; the self-checks report it.",
                AVM(),
            ),
        },
    ),
    variant(
        "gat_digits",
        "Guided adversarial training, whose attack is one step.",
        pgd_at_digits,
        objective=GAT(),
        attack=TrainingAttack(steps=1, relative_step=1.0),
    ),
    variant(
        "nfgsm_digits",
        "N-FGSM: one step from strong noise, without a projection.",
        pgd_at_digits,
        attack=TrainingAttack(steps=1, relative_step=1.0, noise=2.0),
    ),
    variant(
        "random_budget_digits",
        "PGD-AT with a strength drawn for each image.",
        pgd_at_digits,
        random_budgets=STRENGTHS,
    ),
    oat_digits,
    *objective_rows(
        afa_digits,
        {
            "afa_trades_digits": ("AFA over TRADES.", TRADES()),
            "afa_mart_digits": ("AFA over MART.", MART()),
            "afa_iat_digits": ("AFA over IAT.", IAT()),
        },
    ),
    variant(
        "afs_trades_digits",
        "AFS whose extractors are trained with TRADES.",
        afs_digits,
        objective=TRADES(),
    ),
    variant(
        "afs_one_budget_digits",
        "AFS of three extractors of one budget, to separate stacking budgets from ensembling.",
        afs_digits,
        budgets=(TOP, TOP, TOP),
    ),
)
"""Every method."""
