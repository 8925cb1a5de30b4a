"""AFS's tables at the paper's scale: one recipe per row, as described in Sec. III.

Table IV quotes FAT, TLA, TRADES and LBGAT from their papers, which use other networks and
schedules. Here all rows share one network and schedule, so that they are comparable.
``--network.depth 34`` gives the network of those papers. FAT is trained at 16/255 with a tau that
rises from 0 to 3, as the row whose clean accuracy and PGD the table quotes.

Decays "at 60 epoch" and "at 3 epoch" are read by one rule: epochs count from 1, and the one named
is the first at the lower rate. The authors' code does so in both of its stages (it lowers the rate
before the epochs of index 59 and 2), and TRADES' code, from which AFA's 75 and 90 come, too.
"""

from dataclasses import replace
from typing import Any

from equipoise.data import Augmentation, Cifar10, Cifar100, DataSource
from equipoise.methods import AFS, AnyMethod, SingleNetwork, TrainingAttack
from equipoise.objectives import AVM, FAT, LBGAT, PGDAT, TLA, TRADES, AnyObjective, Standard
from equipoise.objectives.fat import AUTHORS_RAISES
from equipoise.recipes.networks import WideResNetShape
from equipoise.recipes.recipe import Evaluation, MakeRecipe, Recipe, row
from equipoise.training import TrainingConfig
from equipoise.training.schedule import Schedule

PGD_AT, CIFAR10 = PGDAT(), Cifar10()
TOP = 8 / 255
BUDGETS = tuple(k / 255 for k in range(10))
ATTACK = TrainingAttack(steps=10, step_size=2 / 255, relative_step=None)
SCHEDULE = Schedule(epochs=70, learning_rate=0.1, decay_epochs=(59,))
MERGER = Schedule(epochs=5, learning_rate=0.1, decay_epochs=(2,), batch_size=100)

CURVE = tuple(k / 255 for k in (0, 2, 4, 6, 8))
"""Strengths of Fig. 4(a). All rows on CIFAR-10 have them: records of one table must agree."""
PGD = Evaluation(epsilons=CURVE, suites=("paper", "adaptive"))
AUTOATTACK = replace(PGD, suites=("paper", "autoattack", "adaptive"))


def single(
    name: str,
    summary: str,
    objective: AnyObjective = PGD_AT,
    *,
    dataset: DataSource = CIFAR10,
    width: int = 10,
    evaluation: Evaluation = PGD,
    **settings: Any,
) -> MakeRecipe:
    """Make a row of a single network, at 8/255 unless its settings have another epsilon."""
    settings = {"epsilon": TOP} | settings
    method = SingleNetwork(objective=objective, attack=ATTACK, schedule=SCHEDULE, **settings)
    return _row(name, summary, method, dataset, evaluation, width)


def stack(
    name: str,
    members: str = "#3 to #8",
    *,
    mask: str = "000111111",
    alpha: float = 0.5,
    dataset: DataSource = CIFAR10,
    evaluation: Evaluation = PGD,
) -> MakeRecipe:
    """Make a row of AFS over those of the budgets 0 to 8 that the mask selects."""
    method = AFS(
        objective=PGD_AT,
        budgets=BUDGETS[:9],
        mask=mask,
        attack=ATTACK,
        schedule=SCHEDULE,
        merger_schedule=MERGER,
        alpha=alpha,
        merger_epsilon=TOP,
    )
    summary = f"AFS of extractors {members}, alpha {alpha:g}."
    return _row(name, summary, method, dataset, evaluation)


def compared(data: str, dataset: DataSource) -> tuple[MakeRecipe, ...]:
    """Make the rows that Tables IV and V share, which are all of Table V."""
    at = CURVE if data == "cifar10" else (0.0, TOP)
    evaluation = replace(AUTOATTACK, epsilons=at)
    rows: dict[str, tuple[str, AnyObjective]] = {
        f"lbgat_trades_{data}_paper": (
            "LBGAT + TRADES, beta 6, with a ResNet-18 as the teacher.",
            LBGAT(beta=6.0, teacher="resnet18"),
        ),
        f"avm_{data}_paper": ("Adversarial vertex mixup, which masks gradients.", AVM()),
        f"pgd_at_{data}_paper_afs": ("PGD-AT at 8/255 on AFS's schedule.", PGD_AT),
    }
    return (
        *(
            single(name, summary, objective, dataset=dataset, evaluation=evaluation)
            for name, (summary, objective) in rows.items()
        ),
        stack(
            f"afs_{data}_paper",
            dataset=dataset,
            evaluation=evaluation,
        ),
    )


def _row(
    name: str,
    summary: str,
    method: AnyMethod,
    dataset: DataSource,
    evaluation: Evaluation,
    width: int = 10,
) -> MakeRecipe:
    recipe = Recipe(
        name=name,
        dataset=dataset,
        network=WideResNetShape(depth=28, width=width),
        method=method,
        loop=TrainingConfig(augmentation=Augmentation(shift=4, flip=True)),
        evaluation=evaluation,
    )
    return row(recipe, summary)


TABLE_1 = tuple(
    single(
        f"extractor_{k}_cifar10_paper",
        f"Extractor #{k}: " + (f"PGD-AT at {k}/255." if k else "standard training."),
        PGD_AT if k else Standard(),
        epsilon=budget,
        evaluation=AUTOATTACK if k == 8 else PGD,  # it is the PGD-AT of Tables IV and VI, too
        stage=f"extractor_{k}",  # they are stacked, so each needs different initial weights
    )
    for k, budget in enumerate(BUDGETS)
)
TABLE_2 = tuple(
    stack(f"afs_cifar10_paper_alpha_{alpha}", alpha=float(alpha.replace("_", ".")))
    for alpha in ("0", "0_2", "0_4", "0_6", "0_8", "1")
)
TABLE_3 = tuple(
    stack(f"afs_cifar10_paper_mask_{mask}", members, mask=mask)
    for mask, members in {
        "100000001": "#0 and #8",
        "100010001": "#0, #4 and #8",
        "101010101": "#0, #2, #4, #6 and #8",
        "111111111": "#0 to #8",
    }.items()
)
TABLE_4 = (
    single(
        "fat_trades_cifar10_paper",
        "FAT over TRADES at 16/255, tau from 0 to 3.",
        FAT(over=TRADES(), raise_at=AUTHORS_RAISES),
        epsilon=16 / 255,
        evaluation=AUTOATTACK,
    ),
    *(
        single(name, summary, objective, evaluation=AUTOATTACK)
        for name, summary, objective in (
            ("tla_cifar10_paper", "Triplet loss adversarial training.", TLA()),
            ("trades_cifar10_paper_afs", "TRADES, beta 6, on AFS's schedule.", TRADES()),
        )
    ),
    *compared("cifar10", CIFAR10),
)
TABLE_5 = compared("cifar100", Cifar100())
TABLE_6 = (
    single(
        "random_budget_cifar10_paper",
        "PGD-AT with a strength from 3/255 to 8/255 drawn for each image.",
        random_budgets=BUDGETS[3:9],
    ),
    single("large_cifar10_paper", "PGD-AT at 8/255 on WRN-28-30.", width=30),
)
"""The table's baseline is ``extractor_8_cifar10_paper``, its AFS row ``afs_cifar10_paper``."""
