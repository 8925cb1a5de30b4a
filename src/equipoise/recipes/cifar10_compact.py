"""Compact CIFAR-10 recipes: the main methods on WRN-10-2 with a one-step attack, for two cores.

They show how each method behaves on photographs, not the papers' accuracies. All share one
backbone, schedule, attack and evaluation.
"""

from dataclasses import replace

from equipoise.data import Augmentation, Cifar10
from equipoise.methods import AFA, AFS, OAT, Gate, SingleNetwork, TrainingAttack
from equipoise.objectives import AVM, FAT, GAT, IAT, LBGAT, MART, PGDAT, TLA, TRADES, Standard
from equipoise.recipes.networks import WideResNetShape
from equipoise.recipes.recipe import Evaluation, MakeRecipe, Recipe, objective_rows, variant
from equipoise.training import TrainingConfig
from equipoise.training.schedule import Schedule

STRENGTHS = (0.0, 1 / 255, 2 / 255, 4 / 255, 8 / 255)
TOP = STRENGTHS[-1]

ATTACK = TrainingAttack(steps=1, relative_step=1.25)
"""One step from a random start, the cheapest attack that trains (Wong et al. 2020)."""

THREE_STEPS = TrainingAttack(steps=3, relative_step=0.5)
"""For FAT: with one step there is nothing to stop early."""

GUIDED_GATE = Gate(pairs=True, lead=0.5, detection=1.0, hidden=32, ceiling=0.1)
"""Placement and ceiling are the best of those tried on validation images."""

SCHEDULE = Schedule(epochs=5, learning_rate=0.2, shape="one_cycle")


def standard_cifar10_compact() -> Recipe:
    """Standard training."""
    method = SingleNetwork(objective=Standard(), epsilon=0.0, schedule=SCHEDULE)
    return _recipe("standard_cifar10_compact", method)


def pgd_at_cifar10_compact() -> Recipe:
    """Adversarial training at 8/255."""
    method = SingleNetwork(objective=PGDAT(), epsilon=TOP, attack=ATTACK, schedule=SCHEDULE)
    return _recipe("pgd_at_cifar10_compact", method)


def afa_cifar10_compact() -> Recipe:
    """AFA over PGD-AT, K = 3, with a guided gate."""
    # With SGD the generator stays at chance for 600 steps; AdamW needs 150.
    schedule = Schedule(epochs=1, learning_rate=3e-3, optimiser="adamw", shape="one_cycle")
    return _recipe("afa_cifar10_compact", _afa(GUIDED_GATE, schedule))


def afa_cifar10_compact_plain() -> Recipe:
    """AFA over PGD-AT, K = 3, with a plain stage II; its generator reads pixels."""
    schedule = replace(SCHEDULE, epochs=1, learning_rate=0.02)
    return _recipe("afa_cifar10_compact_plain", _afa(Gate(), schedule))


def afs_cifar10_compact() -> Recipe:
    """AFS over budgets 0, 2, 4 and 8."""
    method = AFS(
        objective=PGDAT(),
        budgets=(0.0, 2 / 255, 4 / 255, 8 / 255),
        attack=ATTACK,
        schedule=SCHEDULE,
        merger_schedule=replace(SCHEDULE, epochs=2, learning_rate=0.1),
        alpha=0.3,
        merger_epsilon=TOP,
    )
    return _recipe("afs_cifar10_compact", method)


def oat_cifar10_compact() -> Recipe:
    """Once-for-all adversarial training, with FiLM layers initialised to the identity."""
    method = OAT(
        epsilon=TOP,
        attack=ATTACK,
        schedule=SCHEDULE,
        encoding="none",
        size=1,
        start="identity",
    )
    return _recipe("oat_cifar10_compact", method)


def _afa(gate: Gate, schedule: Schedule) -> AFA:
    return AFA(
        objective=PGDAT(),
        strengths=(0.0, 4 / 255, 8 / 255),
        attack=ATTACK,
        schedule=SCHEDULE,
        gate=gate,
        gate_schedule=schedule,
    )


def _recipe(name: str, method: SingleNetwork | AFA | AFS | OAT) -> Recipe:
    return Recipe(
        name=name,
        dataset=Cifar10(),
        network=WideResNetShape(depth=10, width=2),
        method=method,
        loop=TrainingConfig(
            batch_size=128,
            validation_images=1000,
            augmentation=Augmentation(shift=4, padding="reflect", flip=True),
            precision="bf16-mixed",
        ),
        evaluation=Evaluation(epsilons=STRENGTHS, images=500, steps=10),
    )


CIFAR10_COMPACT: tuple[MakeRecipe, ...] = (
    standard_cifar10_compact,
    pgd_at_cifar10_compact,
    afa_cifar10_compact,
    afa_cifar10_compact_plain,
    variant(
        "afa_split_cifar10_compact",
        "AFA over PGD-AT, K = 3, each image attacked for one branch per step.",
        afa_cifar10_compact,
        split_batch=True,
    ),
    afs_cifar10_compact,
    *objective_rows(
        pgd_at_cifar10_compact,
        {
            "trades_cifar10_compact": ("TRADES, beta 6.", TRADES()),
            "mart_cifar10_compact": ("MART, beta 5.", MART()),
            "iat_cifar10_compact": ("Interpolated adversarial training.", IAT()),
            "tla_cifar10_compact": ("Triplet loss adversarial training.", TLA()),
            "lbgat_cifar10_compact": (
                "Learnable boundary guided training, with a teacher of the student's architecture.",
                LBGAT(),
            ),
            "avm_cifar10_compact": ("Adversarial vertex mixup.", AVM()),
        },
    ),
    variant(
        "fat_cifar10_compact",
        "Friendly adversarial training over PGD-AT, three steps.",
        pgd_at_cifar10_compact,
        objective=FAT(over=PGDAT(), tau=1),
        attack=THREE_STEPS,
    ),
    variant(
        "gat_cifar10_compact",
        "Guided adversarial training, weight 10.",
        pgd_at_cifar10_compact,
        objective=GAT(),
        attack=TrainingAttack(steps=1, relative_step=1.0),
    ),
    variant(
        "nfgsm_cifar10_compact",
        "N-FGSM: one step from strong noise, without a projection.",
        pgd_at_cifar10_compact,
        attack=TrainingAttack(steps=1, relative_step=1.0, noise=2.0),
    ),
    variant(
        "random_budget_cifar10_compact",
        "PGD-AT with a strength from 3/255 to 8/255 drawn for each image.",
        pgd_at_cifar10_compact,
        random_budgets=tuple(k / 255 for k in range(3, 9)),
    ),
    oat_cifar10_compact,
    *objective_rows(
        afa_cifar10_compact,
        {
            "afa_trades_cifar10_compact": ("AFA over TRADES.", TRADES()),
            "afa_mart_cifar10_compact": ("AFA over MART.", MART()),
            "afa_iat_cifar10_compact": ("AFA over IAT.", IAT()),
        },
    ),
)
"""The main methods."""
