"""GAT: guided adversarial training, whose one-step attack also climbs the change of prediction."""

from dataclasses import dataclass, replace

from equipoise.attacks import goals, losses
from equipoise.attacks.goals import Goal
from equipoise.attacks.pgd import StartNoise
from equipoise.objectives.base import Batch
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Labels, PerImage, Predict


@dataclass(frozen=True, kw_only=True)
class GAT:
    """Cross-entropy of clean images plus the squared distance of the two predictions.

    The attack maximises the same distance in addition to the cross-entropy: it guides the single
    step where the cross-entropy alone is flat or points along it. It starts half of epsilon away,
    in a direction drawn for each pixel. Train it with ``TrainingAttack(steps=1,
    relative_step=1.0)``.

    Args:
        weight: Weight of the squared distance between the probabilities, 0 or more, in the loss and
            in the attack.
        raise_at: Share of the training steps, (0, 1), from which the weight is ``raise_by`` times
            as large in both; ``None`` keeps it. The authors' is 0.86.
        raise_by: That factor; the authors' is 4.

    Raises:
        ValueError: If weight is negative, or ``raise_at`` is not in (0, 1).

    Source:
        Sriramanan et al. 2020, Algorithm 2 and ``GAT_cifar10.py`` of their code. Deviations: the
        attack has the distance at every step, where their code leaves it out at every second one;
        the clean prediction that guides it is made in the mode of the attack, theirs in training
        mode; clean images are predicted once a step in training mode, not twice.

    Example:
        >>> GAT(raise_at=0.86).at(progress=0.9).weight
        40.0
    """

    weight: float = 10.0
    raise_at: float | None = None
    raise_by: float = 4.0

    attacks = True
    per_image_loss = True

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and self.raise_by >= 0):
            raise InvalidInput(
                f"weight and raise_by must be 0 or more, got {self.weight} and {self.raise_by}."
            )
        if self.raise_at is not None and not 0 < self.raise_at < 1:
            raise InvalidInput(
                f"raise_at must be a share of the training in (0, 1), got {self.raise_at}."
            )

    @property
    def start_noise(self) -> StartNoise:
        """Half of epsilon up or down for each pixel."""
        return "signs"

    def at(self, progress: float) -> "GAT":
        """Return the objective of a step, with a fixed weight.

        Args:
            progress: Share of the stage's steps already done, [0, 1].
        """
        if self.raise_at is None:
            return self
        factor = self.raise_by if progress >= self.raise_at - 1e-9 else 1.0
        return replace(self, weight=factor * self.weight, raise_at=None)

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """Return the cross-entropy plus the weighted distance from the clean prediction."""
        return goals.guided_cross_entropy(predict, clean, labels, self.weight)

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """Compute the clean cross-entropy plus the weighted distance."""
        clean_logits = batch.predict_clean(batch.clean)
        adversarial_logits = batch.predict_adversarial(batch.adversarial)
        natural = losses.cross_entropy(clean_logits, batch.labels)
        robust = losses.squared_distance(adversarial_logits, clean_logits)
        loss = natural + self.weight * robust
        return {"loss": loss, "loss_clean": natural, "loss_robust": robust}
