"""AFA's tables at the paper's scale: one recipe per row, as described in Sec. 5.1.

Settings that the paper does not give are ours and equal in all rows: batches of 128, weight decay
5e-4, ten attack steps of epsilon / 4 in training (epsilon / 8 on SVHN, also for OAT, whose authors
take seven), crops, and flips except on SVHN.

The weight generator reads the end of the first convolution, before which no norm runs: our reading
of "the end of an intermediate layer". Rows with the other readings are ``READINGS``
(docs/decisions/034-the-layer-that-the-generator-reads.md). The rows named ``_led`` have our guided
gate instead, whose generator reads the pixels.

Decays "at the 75th and the 90th epoch" and "at the 10th" are read as in ``recipes.afs_paper``:
epochs count from 1, and the one named is the first at the lower rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from equipoise.data import SVHN, Augmentation, Cifar10, DataSource, TinyImageNet
from equipoise.methods import AFA, OAT, AnyMethod, Gate, SingleNetwork, TrainingAttack
from equipoise.objectives import IAT, MART, PGDAT, TRADES, AnyObjective, Standard
from equipoise.recipes import cifar10_compact
from equipoise.recipes.networks import AnyNetwork, ResNetShape, WideResNetShape
from equipoise.recipes.recipe import Evaluation, MakeRecipe, Recipe, row
from equipoise.training import TrainingConfig
from equipoise.training.schedule import Schedule

STRENGTHS = (0.0, 1 / 255, 2 / 255, 4 / 255, 8 / 255)
OBJECTIVES: dict[str, tuple[str, AnyObjective]] = {
    "pgd_at": ("PGD-AT", PGDAT()),
    "trades": ("TRADES", TRADES()),
    "iat": ("IAT", IAT()),
    "mart": ("MART", MART(beta=6.0)),  # the authors' for wide ResNets
}

PLAIN_GATE = Gate(placement="stem")
"""The paper's stage II, Sec. 4.3; the placement is a reading: docs/decisions/034."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Settings that all rows of one data set share.

    Args:
        data: The data set in recipes' names.
        dataset: The data set.
        network: The backbone.
        learning_rate: Initial learning rate of single networks and AFA's stage I; stage II starts
            at a tenth of it.
        flip: Whether images may be mirrored without changing their class.
        attack: Settings of every training attack.
    """

    data: str
    dataset: DataSource
    network: AnyNetwork
    learning_rate: float = 0.1
    flip: bool = True
    attack: TrainingAttack = TrainingAttack()

    @property
    def schedule(self) -> Schedule:
        """100 epochs; the rate is divided by 10 at the 75th and the 90th, counted from 1."""
        return Schedule(epochs=100, learning_rate=self.learning_rate, decay_epochs=(74, 89))

    def single(
        self, name: str, summary: str, objective: AnyObjective, epsilon: float
    ) -> MakeRecipe:
        """Make a row of a single network."""
        return self.row(
            name,
            summary,
            SingleNetwork(
                objective=objective, epsilon=epsilon, attack=self.attack, schedule=self.schedule
            ),
        )

    def afa(
        self,
        name: str,
        summary: str,
        objective: AnyObjective,
        strengths: tuple[float, ...],
        gate: Gate,
    ) -> MakeRecipe:
        """Make a row of AFA with the paper's plain stage II or a guided gate."""
        rate = self.learning_rate / 10
        second = Schedule(epochs=20, learning_rate=rate, decay_epochs=(9,))
        if gate.pairs:  # with SGD a guided generator stays at chance: docs/decisions/008
            second = replace(second, optimiser="adamw", learning_rate=3e-3, shape="one_cycle")
        method = AFA(
            objective=objective,
            strengths=strengths,
            attack=self.attack,
            schedule=self.schedule,
            gate=gate,
            gate_schedule=second,
        )
        return self.row(name, summary, method)

    def table(self, objectives: Sequence[str]) -> tuple[MakeRecipe, ...]:
        """Make all rows: standard training, and each objective alone and under AFA."""
        rows = [self.single(f"standard_{self.data}_paper", "Standard training.", Standard(), 0.0)]
        for key in objectives:
            label, objective = OBJECTIVES[key]
            afa_name = "afa" if key == "pgd_at" else f"afa_{key}"
            rows += [
                self.single(f"{key}_{self.data}_paper", f"{label} at 8/255.", objective, 8 / 255),
                self.afa(
                    f"{afa_name}_{self.data}_paper",
                    f"{label} + ours: AFA, K = 5, plain stage II.",
                    objective,
                    STRENGTHS,
                    PLAIN_GATE,
                ),
            ]
        summary = "AFA over PGD-AT, K = 5, with a guided gate."
        rows.append(
            self.afa(
                f"afa_{self.data}_paper_led",
                summary,
                PGDAT(),
                STRENGTHS,
                cifar10_compact.GUIDED_GATE,
            )
        )
        return tuple(rows)

    def row(self, name: str, summary: str, method: AnyMethod) -> MakeRecipe:
        """Make a row of any method."""
        recipe = Recipe(
            name=name,
            dataset=self.dataset,
            network=self.network,
            method=method,
            # With a constant border, a generator would detect attacks by their effect on it
            # (docs/decisions/008).
            loop=TrainingConfig(
                augmentation=Augmentation(shift=4, padding="reflect", flip=self.flip)
            ),
            evaluation=Evaluation(epsilons=STRENGTHS, suites=("quick", "paper", "adaptive")),
        )
        return row(recipe, summary)


WRN_16_8 = WideResNetShape(depth=16, width=8)
WRN_28_10 = WideResNetShape(depth=28, width=10)
ON_SVHN = Setting(
    data="svhn",
    dataset=SVHN(),
    network=WRN_16_8,
    learning_rate=0.01,
    flip=False,
    # Longer steps overestimate robustness on SVHN (Rice et al. 2020).
    attack=TrainingAttack(relative_step=0.125),
)
ON_CIFAR10 = Setting(data="cifar10", dataset=Cifar10(), network=WRN_28_10)
ON_TINY_IMAGENET = Setting(data="tiny_imagenet", dataset=TinyImageNet(), network=WRN_16_8)

TABLE_1_SVHN = ON_SVHN.table(("pgd_at", "trades", "iat", "mart"))
"""As on CIFAR-10: ``standard_svhn_paper``, ``trades_svhn_paper``, ``afa_svhn_paper`` and so on."""

TABLE_1_CIFAR10 = ON_CIFAR10.table(("pgd_at", "trades", "iat", "mart"))
"""``standard_cifar10_paper``, ``pgd_at_cifar10_paper``, ``trades_cifar10_paper``,
``iat_cifar10_paper``, ``mart_cifar10_paper``; ``afa_cifar10_paper``, ``afa_trades_cifar10_paper``,
``afa_iat_cifar10_paper``, ``afa_mart_cifar10_paper`` and ``afa_cifar10_paper_led``."""

TABLE_2 = ON_TINY_IMAGENET.table(("pgd_at", "trades", "mart"))
"""``standard_tiny_imagenet_paper``, ``trades_tiny_imagenet_paper`` and so on."""

FIGURE_1 = (
    ON_SVHN.row(
        "oat_svhn_paper",
        "OAT, on the table's schedule.",
        OAT(epsilon=8 / 255, attack=ON_SVHN.attack, schedule=ON_SVHN.schedule),
    ),
)
"""``oat_svhn_paper``; the figure's other curves are rows of Table 1."""

TABLE_3 = (
    replace(ON_CIFAR10, network=ResNetShape(depth=50)).single(
        "surrogate_cifar10_paper",
        "Standard training of a ResNet-50, from which attacks are transferred.",
        Standard(),
        0.0,
    ),
)
"""``surrogate_cifar10_paper``; the table's rows are those of Table 1."""

FIGURE_6 = (
    replace(ON_CIFAR10, network=ResNetShape(depth=34)).single(
        "surrogate_resnet34_cifar10_paper",
        "Standard training of a ResNet-34, on which the images of Fig. 6 are made.",
        Standard(),
        0.0,
    ),
)
"""``surrogate_resnet34_cifar10_paper``; the figure shows ``afa_cifar10_paper``."""

TABLE_4 = tuple(
    ON_CIFAR10.afa(
        f"afa_cifar10_paper_k{len(strengths)}",
        f"AFA over PGD-AT, K = {len(strengths)}, plain stage II.",
        PGDAT(),
        strengths,
        PLAIN_GATE,
    )
    for strengths in (
        (0.0, 8 / 255),
        (0.0, 4 / 255, 8 / 255),
        tuple(k / 255 for k in range(9)),
    )
)
"""``afa_cifar10_paper_k2``, ``_k3`` and ``_k9``; K = 5 is ``afa_cifar10_paper``."""

READINGS = tuple(
    ON_CIFAR10.afa(f"afa_cifar10_paper_{name}", summary, PGDAT(), STRENGTHS, gate)
    for name, summary, gate in (
        (
            "layer",
            "AFA, K = 5, whose generator reads the end of the first stage, robust branch before.",
            Gate(placement="layer", layer="stages.0"),
        ),
        (
            "per_norm",
            "AFA, K = 5, with a generator in front of each pair of norms.",
            Gate(placement="per_norm"),
        ),
    )
)
"""``afa_cifar10_paper_layer`` and ``_per_norm``: other readings of where the generator is."""
