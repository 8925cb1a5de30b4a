"""FAT: friendly adversarial training, whose attack stops soon after it has succeeded."""

from dataclasses import dataclass

from equipoise.attacks import goals
from equipoise.attacks.goals import Goal
from equipoise.objectives.base import Batch
from equipoise.objectives.mart import MART
from equipoise.objectives.pgd_at import PGDAT
from equipoise.objectives.trades import TRADES
from equipoise.types import Images, Labels, PerImage, Predict

FATBase = PGDAT | TRADES | MART
"""What FAT is defined over."""


@dataclass(frozen=True, kw_only=True)
class FAT:
    """Another objective, with adversarial images from early-stopped PGD.

    An image leaves the attack ``tau`` steps after it is first misclassified, so the adversarial
    images lie not far beyond the decision boundary. One that is never misclassified gets all steps.

    Args:
        over: The objective whose losses are taken, whose goal is climbed and whose start is used.
        tau: Further steps after the first misclassified point, 0 or more; the authors use 0 to 4.

    Raises:
        ValueError: If tau is negative.

    Source:
        Zhang et al. 2020, Algorithm 1-2. Points are counted at which the image is misclassified,
        as Algorithm 1 does, so one that crosses back takes longer. Deviations: tau is fixed, where
        their recipes raise it during training; no noise is added at each step (their omega, 0.001
        for plain FAT); rows keep their order, where their code puts images that stop first, first.
    """

    over: FATBase = PGDAT()
    tau: int = 0

    attacks = True
    per_image_loss = False  # its attack lets some images go before others

    def __post_init__(self) -> None:
        if self.tau < 0:
            raise ValueError(f"tau must be 0 or more steps, got {self.tau}.")

    @property
    def start_noise(self) -> float | None:
        """As that which it is over."""
        return self.over.start_noise

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """The goal of that which it is over, done with an image soon after it is misclassified."""
        return goals.EarlyStoppedGoal(predict, clean, labels, self.over.goal, tau=self.tau)

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """The losses of that which it is over."""
        return self.over.losses(batch)
