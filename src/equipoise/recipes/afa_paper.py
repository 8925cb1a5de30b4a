"""AFA's tables at its own scale: one recipe a row, on the networks and schedules of Sec. 5.1.

What the paper does not say is ours, and alike in all rows: batches of 128, weight decay 5e-4, ten
steps of epsilon / 4 in training (of epsilon / 8 on SVHN), crops and flips (no flips on SVHN).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from equipoise.data import SVHN, Augmentation, Cifar10, DataSource, TinyImageNet
from equipoise.methods import AFA, OAT, AnyMethod, Gate, Schedule, SingleNetwork, TrainingAttack
from equipoise.objectives import IAT, MART, PGDAT, TRADES, AnyObjective, Standard
from equipoise.recipes import cifar10
from equipoise.recipes.networks import AnyNetwork, ResNetShape, WideResNetShape
from equipoise.recipes.recipe import Evaluation, Recipe, row
from equipoise.training import Loop

STRENGTHS = (0.0, 1 / 255, 2 / 255, 4 / 255, 8 / 255)
OBJECTIVES: dict[str, tuple[str, AnyObjective]] = {
    "pgd_at": ("PGD-AT", PGDAT()),
    "trades": ("TRADES", TRADES()),
    "iat": ("IAT", IAT()),
    "mart": ("MART", MART(beta=6.0)),  # the authors' for wide ResNets
}
Make = Callable[[], Recipe]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all rows of one data set share.

    Args:
        data: The data set in recipes' names.
        dataset: The same as a source.
        network: The backbone.
        learning_rate: Of networks and of AFA's stage I; stage II begins at a tenth of it.
        flip: Whether a mirrored image is still one of its class.
        attack: Search of every training attack.
    """

    data: str
    dataset: DataSource
    network: AnyNetwork
    learning_rate: float = 0.1
    flip: bool = True
    attack: TrainingAttack = TrainingAttack()

    @property
    def schedule(self) -> Schedule:
        """100 epochs, a tenth of the rate from 75 and again from 90 on."""
        return Schedule(epochs=100, learning_rate=self.learning_rate, decay_epochs=(75, 90))

    def single(self, name: str, says: str, objective: AnyObjective, epsilon: float) -> Make:
        """A row of one network."""
        return self.row(
            name,
            says,
            SingleNetwork(
                objective=objective, epsilon=epsilon, attack=self.attack, schedule=self.schedule
            ),
        )

    def afa(
        self,
        name: str,
        says: str,
        objective: AnyObjective,
        strengths: tuple[float, ...],
        gate: Gate,
    ) -> Make:
        """A row of AFA: the paper's plain stage II, or a gate that is led to the attack."""
        rate = self.learning_rate / 10
        second = Schedule(epochs=20, learning_rate=rate, decay_epochs=(10,))
        if gate != Gate():  # SGD leaves such a generator at chance for long (LOG.md)
            second = replace(second, optimiser="adamw", learning_rate=3e-3, shape="one_cycle")
        method = AFA(
            objective=objective,
            strengths=strengths,
            attack=self.attack,
            schedule=self.schedule,
            gate=gate,
            gate_schedule=second,
        )
        return self.row(name, says, method)

    def table(self, objectives: Sequence[str]) -> tuple[Make, ...]:
        """All rows of the data set: standard training, each objective alone and under AFA."""
        made = [self.single(f"standard_{self.data}_paper", "Standard training.", Standard(), 0.0)]
        for key in objectives:
            label, objective = OBJECTIVES[key]
            over = "afa" if key == "pgd_at" else f"afa_{key}"
            made += [
                self.single(f"{key}_{self.data}_paper", f"{label} at 8/255.", objective, 8 / 255),
                self.afa(
                    f"{over}_{self.data}_paper",
                    f"{label} + ours: AFA, K = 5, plain stage II.",
                    objective,
                    STRENGTHS,
                    Gate(),
                ),
            ]
        says = "AFA over PGD-AT, K = 5, with a gate that is led to the attack."
        made.append(
            self.afa(f"afa_{self.data}_paper_led", says, PGDAT(), STRENGTHS, cifar10.GUIDED_GATE)
        )
        return tuple(made)

    def row(self, name: str, says: str, method: AnyMethod) -> Make:
        """A row of any method."""
        recipe = Recipe(
            name=name,
            dataset=self.dataset,
            network=self.network,
            method=method,
            # Reflected borders: a generator learns a border that an attack colours (LOG.md).
            loop=Loop(augmentation=Augmentation(shift=4, padding="reflect", flip=self.flip)),
            evaluation=Evaluation(epsilons=STRENGTHS, suites=("quick", "paper", "adaptive")),
        )
        return row(recipe, says)


SMALLER = WideResNetShape(depth=16, width=8)
ON_SVHN = Setting(
    data="svhn",
    dataset=SVHN(),
    network=SMALLER,
    learning_rate=0.01,
    flip=False,
    attack=TrainingAttack(
        relative_step=0.125
    ),  # longer steps overrate networks there (Rice et al.)
)
ON_CIFAR10 = Setting(data="cifar10", dataset=Cifar10(), network=WideResNetShape(depth=28, width=10))
ON_TINY_IMAGENET = Setting(data="tiny_imagenet", dataset=TinyImageNet(), network=SMALLER)

TABLE_1_SVHN = ON_SVHN.table(("pgd_at", "trades", "iat", "mart"))
TABLE_1_CIFAR10 = ON_CIFAR10.table(("pgd_at", "trades", "iat", "mart"))
TABLE_2 = ON_TINY_IMAGENET.table(("pgd_at", "trades", "mart"))
FIGURE_1 = (
    ON_SVHN.row(
        "oat_svhn_paper",
        "OAT, on the table's schedule.",
        OAT(epsilon=8 / 255, schedule=ON_SVHN.schedule),
    ),
)
"""Its other curves are rows of Table 1."""

TABLE_3 = (
    replace(ON_CIFAR10, network=ResNetShape(depth=50)).single(
        "surrogate_cifar10_paper",
        "Standard training of a ResNet-50, from which attacks are transferred.",
        Standard(),
        0.0,
    ),
)
"""Its rows are those of Table 1."""

TABLE_4 = tuple(
    ON_CIFAR10.afa(
        f"afa_cifar10_paper_k{len(strengths)}",
        f"AFA over PGD-AT, K = {len(strengths)}, plain stage II.",
        PGDAT(),
        strengths,
        Gate(),
    )
    for strengths in (
        (0.0, 8 / 255),
        (0.0, 4 / 255, 8 / 255),
        tuple(k / 255 for k in range(9)),
    )
)
"""K = 5 is ``afa_cifar10_paper``."""
