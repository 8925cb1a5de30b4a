"""TLA: triplet loss adversarial training, which separates the classes' features under attack."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipoise.attacks import goals, losses
from equipoise.attacks.goals import Goal
from equipoise.distributed.shared_generator import uniform_like
from equipoise.models.last_linear import features_and_logits
from equipoise.objectives.base import Batch
from equipoise.records.epsilon import Distance
from equipoise.types import Images, Labels, PerImage, Predict

Features = Float[Tensor, "batch size"]


@dataclass(frozen=True, kw_only=True)
class TLA:
    """Cross-entropy of adversarial images plus two triplet terms on penultimate features.

    The anchor of both is the adversarial image. The positive is its own clean image with uniform
    noise in one term, another clean image of its class in the other. The negative is the hardest:
    of all clean images of other classes, the one most similar to the anchor.

    Args:
        weight: Weight of the two triplet terms.
        margin: Margin by which the negative should be farther away than the positive. Distances
            are one minus the absolute cosine, so at most 1.
        norm_weight: Weight, inside each triplet term, of the mean squares of its three features.
        noise: Largest noise on the first positive, in pixel units.

    Source:
        Mao et al. 2019 and ``train_update_fast_triplet.py`` of their code with its settings for
        CIFAR-10. Deviations: positives and negatives come from the batch itself, where their code
        searches a second batch, ten times as large, for negatives and the whole training set for
        positives; an image that is alone in its class is its own second positive, and one without
        any negative has no triplet terms; similarity is taken from the training forward pass, where
        they run another one in evaluation mode; the noisy image is not rounded to whole pixel
        levels.

    Example:
        >>> TLA().noise == 8 / 255
        True
        >>> TLA().per_image_loss  # it compares images
        False
    """

    weight: float = 2.0
    margin: float = 0.03
    norm_weight: float = 1e-3
    noise: Distance = 8 / 255

    attacks = True
    start_noise = None
    per_image_loss = False

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """Return the cross-entropy."""
        return goals.cross_entropy(predict, labels)

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """Compute the cross-entropy plus the two triplet terms.

        Raises:
            ValueError: If the batch's functions are not networks with a last linear layer.
        """
        clean, labels = batch.clean, batch.labels
        noise = uniform_like(clean, -self.noise, self.noise, batch.generator)
        anchor, logits = features_and_logits(batch.predict_adversarial, batch.adversarial)
        noisy, _ = features_and_logits(batch.predict_clean, (clean + noise).clamp(0.0, 1.0))
        natural, _ = features_and_logits(batch.predict_clean, clean)
        anchor, noisy, natural = map(losses.at_least_float32, (anchor, noisy, natural))
        same_class = labels[:, None] == labels[None]
        negative = natural[_hardest_negative(anchor, natural, same_class)]
        second = natural[_random_positive(same_class, batch.generator)]
        triplets = self._triplet(anchor, noisy, negative) + self._triplet(anchor, second, negative)
        triplets = torch.where(same_class.all(dim=1), 0.0, triplets)
        entropy = losses.cross_entropy(logits, labels)
        loss = entropy + self.weight * triplets
        return {"loss": loss, "loss_adversarial": entropy, "loss_triplets": triplets}

    def _triplet(self, anchor: Features, positive: Features, negative: Features) -> PerImage:
        near, far = _distance(anchor, positive), _distance(anchor, negative)
        squares = (anchor.square() + positive.square() + negative.square()).mean(dim=1)
        return (near - far + self.margin).clamp_min(0.0) + self.norm_weight * squares


def _unit(features: Features) -> Features:
    return features / (features.square() + 1e-20).sum(dim=1, keepdim=True).sqrt()


def _distance(left: Features, right: Features) -> PerImage:
    return 1 - (_unit(left) * _unit(right)).sum(dim=1).abs()


@torch.no_grad()
def _hardest_negative(
    anchor: Features, pool: Features, same_class: Tensor
) -> Int[Tensor, " batch"]:
    """For each anchor, find the most similar row of the pool that belongs to another class."""
    similarity = _unit(anchor) @ _unit(pool).T
    return similarity.masked_fill(same_class, float("-inf")).argmax(dim=1)


def _random_positive(same_class: Tensor, generator: torch.Generator) -> Int[Tensor, " batch"]:
    """For each row, draw another row of its class uniformly; itself if there is no other."""
    same, device = same_class, same_class.device
    draw = torch.rand(same.shape, generator=generator, device=generator.device).to(device)
    others = same & ~torch.eye(len(same), dtype=torch.bool, device=device)
    drawn = draw.masked_fill(~others, -1.0).argmax(dim=1)
    return torch.where(others.any(dim=1), drawn, torch.arange(len(same), device=device))
