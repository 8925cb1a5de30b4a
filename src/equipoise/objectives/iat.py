"""IAT: interpolated adversarial training, mixup of clean images and of adversarial images."""

from dataclasses import dataclass

import torch

from equipoise.attacks import goals, losses
from equipoise.attacks.goals import Goal
from equipoise.objectives.base import Batch
from equipoise.types import Images, Labels, PerImage, Predict


@dataclass(frozen=True, kw_only=True)
class IAT:
    """Mean of two mixup losses: one of clean images, one of adversarial images.

    The attack is on the unmixed images; adversarial images are then mixed with each other. Each
    half has its own permutation and its own mixing weight, one for the batch.

    Source:
        Lamb et al. 2019, Algorithm 1, with Beta(1, 1), which is uniform. The authors published no
        code. Of two independent implementations, one draws a weight for each batch (ndb796), as
        mixup's authors and we do, the other one for each image (P2333).

    Example:
        >>> IAT().per_image_loss  # it mixes images
        False
    """

    attacks = True
    start_noise = None
    per_image_loss = False

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """Return the cross-entropy."""
        return goals.cross_entropy(predict, labels)

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """Compute the mean of the mixup losses of clean and of adversarial images."""
        labels, generator = batch.labels, batch.generator
        natural = _mixup(batch.predict_clean, batch.clean, labels, generator)
        attacked = _mixup(batch.predict_adversarial, batch.adversarial, labels, generator)
        loss = (natural + attacked) / 2
        return {"loss": loss, "loss_clean": natural, "loss_adversarial": attacked}


def _mixup(
    predict: Predict, images: Images, labels: Labels, generator: torch.Generator
) -> PerImage:
    device = generator.device
    weight = torch.rand((), generator=generator, device=device).to(images.device)
    partner = torch.randperm(len(images), generator=generator, device=device).to(images.device)
    logits = predict(weight * images + (1 - weight) * images[partner])
    first = losses.cross_entropy(logits, labels)
    second = losses.cross_entropy(logits, labels[partner])
    return weight * first + (1 - weight) * second
