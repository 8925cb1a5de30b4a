"""What an attack climbs: a goal takes images and returns one number an image.

A goal closes over whatever it needs (a model's ``predict``, labels, a surrogate), so a search never
sees a model. ``predict`` is any function from images in [0, 1] to logits.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from equipoise import losses
from equipoise.losses import Labels, Logits, PerImage
from equipoise.threat import Images

Predict = Callable[[Images], Logits]
Joint = Callable[[Images], tuple[Logits, Logits, PerImage | float]]
"""One forward pass: logits to judge, logits to take the loss of, and what is added to the loss."""


@runtime_checkable
class Goal(Protocol):
    """Images ``(batch, channel, height, width)`` in, one number an image out; higher is worse
    for the model. Row i of the answer depends on row i of the images alone."""

    def __call__(self, images: Images, /) -> PerImage:
        """The number to climb, per image."""
        ...


@runtime_checkable
class Finishable(Goal, Protocol):
    """A goal that knows which images need no further search and can go on without them."""

    @property
    def done(self) -> Bool[Tensor, " batch"]:
        """Whether each image needs no further search."""
        ...

    def found(self, images: Images) -> Images:
        """``images`` with the point that was found in place of each that is done."""
        ...

    def narrowed(self, rows: Int[Tensor, " rows"]) -> "Finishable":
        """The same goal for some of the images; what it finds is noted here too."""
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


def dlr(predict: Predict, labels: Labels) -> Goal:
    """Climb the difference of logits ratio.

    Returns:
        The goal of APGD-DLR, for three classes or more: the margin, made independent of the
        logits' scale.
    """
    return lambda images: losses.dlr(predict(images), labels)


class Watched:
    """A goal that remembers the first misclassified point of every image.

    A search keeps the point where its goal is highest, which under cross-entropy need not be
    misclassified although another visited point was. Evaluation wants any broken point, and no
    further work on an image that has one: this goal is ``Finishable``.

    Args:
        predict: Images to logits.
        labels: ``(batch,)``.
        loss: The per-image loss to climb, called as ``loss(logits, labels)``, or as
            ``loss(logits, labels, targets)`` where there are targets.
        joint: Called in place of ``predict``; gives, from one forward pass, the logits that are
            judged, those that the loss is taken of, and a number per image that is added to the
            loss. For attacks on something beside the logits, such as AFA's gate.
        targets: ``(batch,)``, the class to push each image to, for a targeted loss.
        judge: Images to logits; decides whether a point that ``predict`` misclassifies counts. For
            a ``predict`` of lower precision.

    Attributes:
        forward_passes: Images that ``predict`` or ``joint`` was called with.
        backward_passes: Those of them whose gradient was wanted.
    """

    def __init__(
        self,
        predict: Predict,
        labels: Labels,
        loss: Callable[..., PerImage],
        joint: Joint | None = None,
        targets: Labels | None = None,
        judge: Predict | None = None,
    ) -> None:
        self.predict, self.judge = predict, judge
        self.labels, self.targets = labels, targets
        self.loss, self.joint = loss, joint
        self.rows = torch.arange(len(labels), device=labels.device)
        self.root = self
        self.forward_passes = self.backward_passes = 0
        self._broken = torch.zeros_like(labels, dtype=torch.bool)
        self._images: Tensor | None = None

    def __call__(self, images: Images, /) -> PerImage:
        """The loss at ``images``, taking note of what is misclassified there."""
        self.root.forward_passes += len(images)
        if torch.is_grad_enabled() and images.requires_grad:
            self.root.backward_passes += len(images)
        added: PerImage | float = 0.0
        if self.joint is None:
            logits = climbed = self.predict(images)
        else:
            logits, climbed, added = self.joint(images)
        self.note(images, logits)
        if self.targets is None:
            return self.loss(climbed, self.labels) + added
        return self.loss(climbed, self.labels, self.targets) + added

    @property
    def broken(self) -> Bool[Tensor, " batch"]:
        """Whether a misclassified point of each image was visited."""
        return self.root._broken[self.rows]

    @property
    def done(self) -> Bool[Tensor, " batch"]:
        """The same: a broken image needs no further search."""
        return self.broken

    @property
    def images(self) -> Images:
        """The first misclassified point of each image; rows without one hold zeros."""
        assert self.root._images is not None, "nothing has been visited yet"
        return self.root._images[self.rows]

    def found(self, images: Images) -> Images:
        """``images`` with the misclassified point in place of each that has one."""
        broken = self.broken
        if not bool(broken.any()):
            return images
        return torch.where(broken[:, None, None, None], self.images.to(images.dtype), images)

    def narrowed(self, rows: Int[Tensor, " rows"]) -> "Watched":
        """The same goal for some of the images; what it finds is noted here too."""
        targets = None if self.targets is None else self.targets[rows]
        part = Watched(self.predict, self.labels[rows], self.loss, self.joint, targets, self.judge)
        part.rows, part.root = self.rows[rows], self.root
        return part

    def towards(self, targets: Labels) -> "Watched":
        """The same goal with other targets; what it finds is noted here too."""
        part = self.narrowed(torch.arange(len(self.labels), device=self.labels.device))
        part.targets = targets
        return part

    @torch.no_grad()
    def note(self, images: Images, logits: Logits) -> None:
        """Remember the images that these logits misclassify and that were not broken before."""
        if self.root._images is None:
            self.root._images = torch.zeros(
                len(self.root.labels), *images.shape[1:], device=images.device
            )
        fresh = (logits.argmax(dim=1) != self.labels) & ~self.broken
        if self.judge is not None and bool(fresh.any()):
            rows = fresh.nonzero().squeeze(1)
            fresh[rows] = self.judge(images[rows].detach()).argmax(dim=1) != self.labels[rows]
        self.root._images[self.rows[fresh]] = images.detach()[fresh].to(self.root._images.dtype)
        self.root._broken[self.rows[fresh]] = True
