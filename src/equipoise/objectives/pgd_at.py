"""PGD adversarial training: cross-entropy of adversarial images."""

from dataclasses import dataclass

import torch

from equipoise.attacks import goals, losses
from equipoise.attacks.goals import Goal
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

    def losses(
        self,
        predict_clean: Predict,
        predict_adversarial: Predict,
        clean: Images,
        adversarial: Images,
        labels: Labels,
        generator: torch.Generator,
    ) -> dict[str, PerImage]:
        """Cross-entropy of the adversarial images."""
        logits = predict_adversarial(adversarial)
        return {"loss": losses.cross_entropy(logits, labels, self.label_smoothing)}
