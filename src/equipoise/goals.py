"""What an attack climbs: a goal takes images and returns one number an image.

A goal closes over whatever it needs (a model's ``predict``, labels, a surrogate), so a search never
sees a model. ``predict`` is any function from images in [0, 1] to logits.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from equipoise import losses
from equipoise.losses import Labels, Logits, PerImage
from equipoise.threat import Images

Predict = Callable[[Images], Logits]
Joint = Callable[[Images], tuple[Logits, PerImage]]


@runtime_checkable
class Goal(Protocol):
    """Images ``(batch, channel, height, width)`` in, one number an image out; higher is worse
    for the model. Row i of the answer depends on row i of the images alone."""

    def __call__(self, images: Images, /) -> PerImage:
        """The number to climb, per image."""
        ...


def cross_entropy(predict: Predict, labels: Labels) -> Goal:
    """Climb the label's cross-entropy.

    Returns:
        The goal of PGD-AT, AFS Eq. (3)-(5) and the papers' PGD evaluations.
    """
    return lambda images: losses.cross_entropy(predict(images), labels)


def margin(predict: Predict, labels: Labels) -> Goal:
    """Climb the largest wrong logit minus the label's logit.

    Returns:
        The goal of the C&W attack in its L-inf form, kappa left out: it is positive exactly where
        the image is misclassified, so the best point of a search is a broken one if any was.
    """
    return lambda images: losses.margin(predict(images), labels)


class Watched:
    """A cross-entropy or margin goal that remembers the first misclassified point of every image.

    A search keeps the point where its goal is highest, which under cross-entropy need not be
    misclassified although another visited point was. Evaluation wants any broken point.

    Args:
        predict: Images to logits.
        labels: ``(batch,)``.
        loss: The per-image loss to climb, called as ``loss(logits, labels)``.
        joint: Called in place of ``predict``; gives the logits and something per image that is
            added to the loss, from one forward pass. For attacks on something beside the logits,
            such as AFA's gate.

    Attributes:
        broken: ``(batch,)`` bool, whether a misclassified point was visited.
        images: The first such point of each image; unset rows hold zeros.
    """

    def __init__(
        self,
        predict: Predict,
        labels: Labels,
        loss: Callable[[Logits, Labels], PerImage],
        joint: Joint | None = None,
    ) -> None:
        self.predict = predict
        self.labels = labels
        self.loss = loss
        self.joint = joint
        self.broken = torch.zeros_like(labels, dtype=torch.bool)
        self.images: Tensor | None = None

    def __call__(self, images: Images, /) -> PerImage:
        """The loss at ``images``, taking note of what is misclassified there."""
        if self.joint is None:
            logits = self.predict(images)
            self.note(images, logits)
            return self.loss(logits, self.labels)
        logits, added = self.joint(images)
        self.note(images, logits)
        return self.loss(logits, self.labels) + added

    @torch.no_grad()
    def note(self, images: Images, logits: Logits) -> None:
        """Remember the images that these logits misclassify and that were not broken before."""
        if self.images is None:
            self.images = torch.zeros_like(images)
        fresh = (logits.argmax(dim=1) != self.labels) & ~self.broken
        self.images[fresh] = images.detach()[fresh]
        self.broken |= fresh
