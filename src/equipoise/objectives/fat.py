"""FAT: friendly adversarial training, whose attack stops soon after it has succeeded."""

from dataclasses import dataclass, replace
from itertools import pairwise

from equipoise.attacks.finishable_goals import EarlyStoppedGoal
from equipoise.attacks.goals import Goal
from equipoise.attacks.pgd import StartNoise
from equipoise.objectives.base import Batch
from equipoise.objectives.mart import MART
from equipoise.objectives.pgd_at import PGDAT
from equipoise.objectives.trades import TRADES
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Labels, PerImage, Predict

FATBase = PGDAT | TRADES | MART
"""Objectives that FAT can be applied to."""

AUTHORS_RAISES = (30 / 85, 50 / 85, 70 / 85)
"""When the authors raise tau over TRADES: after 30, 50 and 70 of 85 epochs."""


@dataclass(frozen=True, kw_only=True)
class FAT:
    """Another objective, trained on adversarial images from early-stopped PGD.

    The attack on an image stops ``tau`` steps after it is first misclassified, so the adversarial
    images lie close behind the decision boundary. An image that is never misclassified gets all
    steps.

    Args:
        over: Base objective, which provides the losses, the goal and the start of the attack.
        tau: Further steps after the first misclassified point, 0 or more; the authors use 0 to 4.
        raise_at: Shares of the training steps, (0, 1) and ascending, at which tau rises by one;
            ``at`` gives the objective of a step. The authors' FAT for TRADES goes from 0 to 3 at
            ``AUTHORS_RAISES``, plain FAT from 0 to 2.

    Raises:
        ValueError: If tau is negative, or the shares do not ascend inside (0, 1).

    Source:
        Zhang et al. 2020, Algorithms 1 and 2. As in Algorithm 1, tau counts misclassified points,
        so an image that crosses back takes more steps. Deviations: tau is fixed by default, where
        their recipes raise it during training; no noise is added at each step (their omega, 0.001
        for plain FAT, 0 over TRADES and MART); rows keep their order, where their code moves
        images that stop early to the front.

    Example:
        >>> from equipoise.objectives import TRADES
        >>> FAT(over=TRADES(), tau=1).start_noise  # of TRADES
        0.001
        >>> fat = FAT(over=TRADES(), raise_at=AUTHORS_RAISES)
        >>> [fat.at(epoch / 85).tau for epoch in (0, 30, 50, 70)]
        [0, 1, 2, 3]
    """

    over: FATBase = PGDAT()
    tau: int = 0
    raise_at: tuple[float, ...] = ()

    attacks = True
    per_image_loss = False  # the attack stops early on some images

    def __post_init__(self) -> None:
        if self.tau < 0:
            raise InvalidInput(f"tau must be 0 or more steps, got {self.tau}.")
        ends = (0.0, *self.raise_at, 1.0)
        if not all(a < b for a, b in pairwise(ends)):
            raise InvalidInput(
                "raise_at must be shares of the training that ascend inside (0, 1), such as "
                f"(0.35, 0.59), got {self.raise_at}."
            )

    def at(self, progress: float) -> "FAT":
        """Return the objective of a step, with a fixed tau.

        Args:
            progress: Share of the stage's steps already done, [0, 1].
        """
        raised = sum(progress >= share - 1e-9 for share in self.raise_at)
        return replace(self, tau=self.tau + raised, raise_at=())

    @property
    def start_noise(self) -> StartNoise:
        """The base objective's ``start_noise``."""
        return self.over.start_noise

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """Return the base objective's goal, stopped early on each image."""
        return EarlyStoppedGoal(predict, clean, labels, self.over.goal, tau=self.tau)

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """Compute the base objective's losses."""
        return self.over.losses(batch)
