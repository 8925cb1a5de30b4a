"""TRADES: accuracy on clean images, and predictions that an attack does not change."""

from dataclasses import dataclass

from equipoise.attacks import goals, losses
from equipoise.attacks.goals import Goal
from equipoise.objectives.base import Batch
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Labels, PerImage, Predict


@dataclass(frozen=True, kw_only=True)
class TRADES:
    """Cross-entropy of clean images plus beta times the KL divergence of the two predictions.

    The divergence is from the clean prediction to the adversarial one, and the gradient flows to
    both of them, as in the authors' code.

    Args:
        beta: Weight of the divergence, 0 or more.

    Raises:
        ValueError: If beta is negative.

    Source:
        Zhang et al. 2019, Algorithm 1 and ``trades.py`` of their code; beta is the paper's 1 /
        lambda. Deviations: the clean images are predicted once a step in training mode, not twice,
        so the batch norms see two batches instead of three; the divergence is computed in log
        space; the attack's start is projected onto the threat.

    Example:
        >>> TRADES(beta=-1.0)
        Traceback (most recent call last):
        ...
        equipoise...InvalidInput: beta must be 0 or more, got -1.0.
    """

    beta: float = 6.0

    attacks = True
    start_noise = 0.001  # the goal is flat at the clean image
    per_image_loss = True

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise InvalidInput(f"beta must be 0 or more, got {self.beta}.")

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """Return the KL divergence from the prediction at the clean images."""
        return goals.kl_divergence(predict, clean)

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """Compute the clean cross-entropy plus beta times the divergence."""
        clean_logits = batch.predict_clean(batch.clean)
        adversarial_logits = batch.predict_adversarial(batch.adversarial)
        natural = losses.cross_entropy(clean_logits, batch.labels)
        robust = losses.kl_divergence(adversarial_logits, clean_logits)
        loss = natural + self.beta * robust
        return {"loss": loss, "loss_clean": natural, "loss_robust": robust}
