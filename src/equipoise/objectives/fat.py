"""FAT: friendly adversarial training, whose attack stops soon after it has succeeded."""

from dataclasses import dataclass

from equipoise.attacks.finishable_goals import EarlyStoppedGoal
from equipoise.attacks.goals import Goal
from equipoise.objectives.base import Batch
from equipoise.objectives.mart import MART
from equipoise.objectives.pgd_at import PGDAT
from equipoise.objectives.trades import TRADES
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Labels, PerImage, Predict

FATBase = PGDAT | TRADES | MART
"""Objectives that FAT can be applied to."""


@dataclass(frozen=True, kw_only=True)
class FAT:
    """Another objective, trained on adversarial images from early-stopped PGD.

    The attack on an image stops ``tau`` steps after it is first misclassified, so the adversarial
    images lie close behind the decision boundary. An image that is never misclassified gets all
    steps.

    Args:
        over: Base objective, which provides the losses, the goal and the start of the attack.
        tau: Further steps after the first misclassified point, 0 or more; the authors use 0 to 4.

    Raises:
        ValueError: If tau is negative.

    Source:
        Zhang et al. 2020, Algorithms 1 and 2. As in Algorithm 1, tau counts misclassified points,
        so an image that crosses back takes more steps. Deviations: tau is fixed, where their
        recipes raise it during training; no noise is added at each step (their omega, 0.001 for
        plain FAT); rows keep their order, where their code moves images that stop early to the
        front.

    Example:
        >>> from equipoise.objectives import TRADES
        >>> FAT(over=TRADES(), tau=1).start_noise  # of TRADES
        0.001
    """

    over: FATBase = PGDAT()
    tau: int = 0

    attacks = True
    per_image_loss = False  # the attack stops early on some images

    def __post_init__(self) -> None:
        if self.tau < 0:
            raise InvalidInput(f"tau must be 0 or more steps, got {self.tau}.")

    @property
    def start_noise(self) -> float | None:
        """The base objective's ``start_noise``."""
        return self.over.start_noise

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """Return the base objective's goal, stopped early on each image."""
        return EarlyStoppedGoal(predict, clean, labels, self.over.goal, tau=self.tau)

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """Compute the base objective's losses."""
        return self.over.losses(batch)
