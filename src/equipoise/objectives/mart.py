"""MART: adversarial training that emphasises images that are misclassified without an attack."""

from dataclasses import dataclass

from equipoise.attacks import goals, losses
from equipoise.attacks.goals import Goal
from equipoise.objectives.base import Batch
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Labels, PerImage, Predict


@dataclass(frozen=True, kw_only=True)
class MART:
    """Boosted cross-entropy of adversarial images plus beta times a weighted KL divergence.

    The divergence from the clean to the adversarial prediction is weighted by one minus the clean
    probability of the label. There is no cross-entropy of clean images, and the attack maximises
    cross-entropy, not the divergence. The gradient flows to the clean prediction through the
    divergence and through its weight.

    Args:
        beta: Weight of the divergence, 0 or more; the authors use 5 for ResNet-18 and 6 for WRN.

    Raises:
        ValueError: If beta is negative.

    Source:
        Wang et al. 2020, Algorithm 1 and ``mart.py`` of their code, which has the 1.0000001.
        Deviations: the divergence is computed in log space, where their code adds 1e-12 to the
        adversarial probabilities; the attack's start is projected onto the threat.

    Example:
        >>> import torch
        >>> images = torch.zeros(2, 1, 1, 1)
        >>> clean_logits = torch.tensor([[20.0, 0.0], [0.0, 0.0]])  # confident, undecided
        >>> adversarial_logits = torch.tensor([[0.0, 2.0], [0.0, 2.0]])
        >>> batch = Batch(
        ...     clean=images,
        ...     adversarial=images,
        ...     labels=torch.tensor([0, 0]),
        ...     predict_clean=lambda images: clean_logits,
        ...     predict_adversarial=lambda images: adversarial_logits,
        ...     generator=torch.Generator(),
        ... )
        >>> confident, undecided = MART().losses(batch)["loss_robust"].tolist()
        >>> confident < 1e-3 < undecided  # a confident clean prediction removes the divergence
        True
    """

    beta: float = 5.0

    attacks = True
    start_noise = 0.001  # as in TRADES
    per_image_loss = True

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise InvalidInput(f"beta must be 0 or more, got {self.beta}.")

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """Return the cross-entropy."""
        return goals.cross_entropy(predict, labels)

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """Compute the boosted cross-entropy plus beta times the weighted divergence."""
        clean_logits = batch.predict_clean(batch.clean)
        adversarial_logits = batch.predict_adversarial(batch.adversarial)
        boosted = losses.boosted_cross_entropy(adversarial_logits, batch.labels)
        clean_probabilities = losses.at_least_float32(clean_logits).softmax(dim=1)
        probability = clean_probabilities.gather(1, batch.labels[:, None])
        divergence = losses.kl_divergence(adversarial_logits, clean_logits)
        robust = divergence * (1.0000001 - probability.squeeze(1))
        loss = boosted + self.beta * robust
        return {"loss": loss, "loss_adversarial": boosted, "loss_robust": robust}
