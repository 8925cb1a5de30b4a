"""PGD adversarial training: cross-entropy of adversarial images."""

from dataclasses import dataclass

from equipoise.attacks import goals, losses
from equipoise.attacks.goals import Goal
from equipoise.objectives.base import Batch
from equipoise.types import Images, Labels, PerImage, Predict


@dataclass(frozen=True, kw_only=True)
class PGDAT:
    """Cross-entropy of adversarial images, whose attack climbs cross-entropy.

    Args:
        label_smoothing: Share of the target spread evenly over all classes; 0 in the papers.

    Source:
        Madry et al. 2018, Eq. (2.1); AFS Eq. (3).
    """

    label_smoothing: float = 0.0

    attacks = True
    start_noise = None
    per_image_loss = True

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """Cross-entropy of the label."""
        return goals.cross_entropy(predict, labels)

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """Cross-entropy of the adversarial images."""
        logits = batch.predict_adversarial(batch.adversarial)
        return {"loss": losses.cross_entropy(logits, batch.labels, self.label_smoothing)}
