"""Interpolated adversarial training: mixup of clean images, and mixup of adversarial ones."""

from dataclasses import dataclass

import torch

from equipoise.attacks import goals, losses
from equipoise.attacks.goals import Goal
from equipoise.objectives.base import Batch
from equipoise.types import Images, Labels, PerImage, Predict


@dataclass(frozen=True, kw_only=True)
class IAT:
    """The mean of two mixup losses: one of clean images, one of adversarial images.

    The attack is on the unmixed images; adversarial images are then mixed among themselves. Each
    half has a mixing weight of its own, one for the batch, and a permutation of its own.

    Source:
        Lamb et al. 2019, Algorithm 1, with Beta(1, 1), which is uniform. There is no code of the
        authors. Of two others', one draws a weight a batch (ndb796), as mixup's authors do and as
        we do, the other one an image (P2333).
    """

    attacks = True
    start_noise = None
    per_image_loss = False  # it mixes images

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """Cross-entropy of the label."""
        return goals.cross_entropy(predict, labels)

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """Half the mixup loss of clean images plus half that of adversarial ones."""
        natural = _mixup(batch.predict_clean, batch.clean, batch.labels, batch.generator)
        attacked = _mixup(
            batch.predict_adversarial, batch.adversarial, batch.labels, batch.generator
        )
        loss = (natural + attacked) / 2
        return {"loss": loss, "loss_clean": natural, "loss_adversarial": attacked}


def _mixup(
    predict: Predict, images: Images, labels: Labels, generator: torch.Generator
) -> PerImage:
    place = generator.device
    weight = torch.rand((), generator=generator, device=place).to(images.device)
    other = torch.randperm(len(images), generator=generator, device=place).to(images.device)
    logits = predict(weight * images + (1 - weight) * images[other])
    own, others = (losses.cross_entropy(logits, each) for each in (labels, labels[other]))
    return weight * own + (1 - weight) * others
