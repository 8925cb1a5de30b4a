"""TLA: adversarial images are pulled to their class and pushed from the nearest other one."""

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

    Anchor of both is the adversarial image. The positive is its own clean image with uniform noise
    in one, another clean image of its class in the other. The negative is the hardest: of all clean
    images of other classes, the most similar to the anchor.

    Args:
        weight: Weight of the two triplet terms.
        margin: By how much the negative should be farther than the positive; distances are one
            minus the absolute cosine, so at most 1.
        norm_weight: Weight, inside each triplet term, of its three features' mean squares.
        noise: Largest noise on the first positive, in pixel units.

    Source:
        Mao et al. 2019 and ``train_update_fast_triplet.py`` of their code with its settings for
        CIFAR-10. Deviations: positives and negatives come from the batch itself, where their code
        looks for negatives in another one, ten times as large, and for positives in the whole
        training part; an image that is alone in its class is its own second positive, and one
        without any negative has no triplet terms; similarity is that of the training forward, where
        they run one more in evaluation mode; the noisy image is not rounded to whole pixel levels.
    """

    weight: float = 2.0
    margin: float = 0.03
    norm_weight: float = 1e-3
    noise: Distance = 8 / 255

    attacks = True
    start_noise = None
    per_image_loss = False  # it compares images

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """Cross-entropy of the label."""
        return goals.cross_entropy(predict, labels)

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """Cross-entropy plus the two triplet terms.

        Raises:
            ValueError: If no network with a linear layer stands behind the predicts.
        """
        clean, labels = batch.clean, batch.labels
        noise = uniform_like(clean, -self.noise, self.noise, batch.generator)
        anchor, logits = features_and_logits(batch.predict_adversarial, batch.adversarial)
        noisy, _ = features_and_logits(batch.predict_clean, (clean + noise).clamp(0.0, 1.0))
        natural, _ = features_and_logits(batch.predict_clean, clean)
        anchor, noisy, natural = anchor.float(), noisy.float(), natural.float()
        same = labels[:, None] == labels[None]
        negative = natural[_hardest(anchor, natural, same)]
        second = natural[_another(same, batch.generator)]
        triplets = self._triplet(anchor, noisy, negative) + self._triplet(anchor, second, negative)
        triplets = torch.where(same.all(dim=1), 0.0, triplets)
        adversary = losses.cross_entropy(logits, labels)
        loss = adversary + self.weight * triplets
        return {"loss": loss, "loss_adversarial": adversary, "loss_triplets": triplets}

    def _triplet(self, anchor: Features, positive: Features, negative: Features) -> PerImage:
        near, far = _distance(anchor, positive), _distance(anchor, negative)
        squares = (anchor.square() + positive.square() + negative.square()).mean(dim=1)
        return (near - far + self.margin).clamp_min(0.0) + self.norm_weight * squares


def _unit(features: Features) -> Features:
    return features / (features.square() + 1e-20).sum(dim=1, keepdim=True).sqrt()


def _distance(one: Features, other: Features) -> PerImage:
    return 1 - (_unit(one) * _unit(other)).sum(dim=1).abs()


@torch.no_grad()
def _hardest(anchor: Features, pool: Features, same: Tensor) -> Int[Tensor, " batch"]:
    """For each anchor, the most similar row of the pool that is of another class."""
    similarity = _unit(anchor) @ _unit(pool).T
    return similarity.masked_fill(same, float("-inf")).argmax(dim=1)


def _another(same: Tensor, generator: torch.Generator) -> Int[Tensor, " batch"]:
    """For each row, another of its class, drawn evenly; itself where there is none."""
    draw = torch.rand(same.shape, generator=generator, device=generator.device).to(same.device)
    others = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    drawn = draw.masked_fill(~others, -1.0).argmax(dim=1)
    return torch.where(others.any(dim=1), drawn, torch.arange(len(same), device=same.device))
