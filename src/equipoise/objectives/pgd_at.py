"""PGD adversarial training: cross-entropy of adversarial images."""

from dataclasses import dataclass

from equipoise.attacks import goals, losses
from equipoise.attacks.goals import Goal
from equipoise.objectives.base import Batch
from equipoise.types import Images, Labels, PerImage, Predict


@dataclass(frozen=True, kw_only=True)
class PGDAT:
    """Cross-entropy of adversarial images, whose attack maximises cross-entropy.

    Args:
        label_smoothing: Share of the target spread evenly over all classes, [0, 1]; 0 in the
            papers.

    Source:
        Madry et al. 2018, Eq. (2.1); AFS Eq. (3).

    Example:
        >>> import torch
        >>> predict = lambda images: images.flatten(1)  # two pixels as two logits
        >>> goal = PGDAT().goal(predict, torch.zeros(1, 1, 1, 2), torch.tensor([0]))
        >>> goal(torch.tensor([[[[0.0, 1.0]]]]))  # log(1 + e)
        tensor([1.3133])
    """

    label_smoothing: float = 0.0

    attacks = True
    start_noise = None
    per_image_loss = True

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """Return the cross-entropy."""
        return goals.cross_entropy(predict, labels)

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """Compute the cross-entropy of the adversarial images."""
        # PGD-AT: the loss at the images that the attack found
        logits = batch.predict_adversarial(batch.adversarial)
        return {"loss": losses.cross_entropy(logits, batch.labels, self.label_smoothing)}
