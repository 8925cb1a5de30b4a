"""Standard training: cross-entropy of clean images."""

from dataclasses import dataclass

from equipoise.attacks import goals, losses
from equipoise.attacks.goals import Goal
from equipoise.objectives.base import Batch
from equipoise.types import Images, Labels, PerImage, Predict


@dataclass(frozen=True, kw_only=True)
class Standard:
    """Cross-entropy of clean images, without an attack.

    Args:
        label_smoothing: Share of the target spread evenly over all classes, [0, 1].

    Source:
        AFA Algorithm 1, ``L_c``; the papers' "Standard" rows.

    Example:
        >>> Standard().attacks
        False
    """

    label_smoothing: float = 0.0

    attacks = False
    start_noise = None
    per_image_loss = True

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """Return the cross-entropy. Training does not attack; others may attack the network."""
        return goals.cross_entropy(predict, labels)

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """Compute the cross-entropy of the clean images."""
        logits = batch.predict_clean(batch.clean)
        return {"loss": losses.cross_entropy(logits, batch.labels, self.label_smoothing)}
