"""What an attack climbs: a goal takes images and returns one number an image.

A goal closes over whatever it needs (a model's ``predict``, labels, a surrogate), so a search never
sees a model. ``predict`` is any function from images in [0, 1] to logits.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from equipoise.attacks import losses
from equipoise.types import Images, Labels, Logits, PerImage, Predict

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


def kl_divergence(predict: Predict, clean: Images) -> Goal:
    """Climb the KL divergence from the prediction at the clean images.

    The clean prediction is made once, when the goal is first called, so that it sees the mode in
    which the network is attacked.

    Returns:
        The goal of TRADES' training attack. It is flat at the clean images themselves: a search
        has to begin beside them.
    """
    reference: list[Logits] = []

    def goal(images: Images) -> PerImage:
        if not reference:
            with torch.no_grad():
                reference.append(predict(clean))
        return losses.kl_divergence(predict(images), reference[0])

    return goal


class EarlyStoppedGoal:
    """A goal that lets an image go soon after the search has crossed the decision boundary.

    It counts at how many of the visited points an image was misclassified. The image is done at the
    first point that brings the count above ``tau``: ``tau`` steps after the first misclassified
    one, where the search does not cross back. That point is what is ``found``.

    Args:
        predict: Images to logits.
        clean: The images under attack.
        labels: ``(batch,)``.
        climb: Makes the goal to climb, as ``climb(predict, clean, labels)``; it calls its
            ``predict`` at the visited points last. Made anew for the images that are left, so one
            that begins with the clean images predicts them again then.
        tau: Further steps, 0 or more.

    Source:
        Zhang et al. 2020 (FAT), Algorithm 1.
    """

    def __init__(
        self,
        predict: Predict,
        clean: Images,
        labels: Labels,
        climb: Callable[[Predict, Images, Labels], Goal],
        tau: int,
    ) -> None:
        self.predict, self.clean, self.labels = predict, clean, labels
        self.climb, self.tau = climb, tau
        self.goal = climb(self._recorded, clean, labels)
        self.rows = torch.arange(len(labels), device=labels.device)
        self.root = self
        self._logits: Logits | None = None
        self._misses = torch.zeros_like(labels)
        self._images = torch.zeros_like(clean)

    def __call__(self, images: Images, /) -> PerImage:
        """The goal at ``images``, taking note of what is misclassified there."""
        value = self.goal(images)
        assert self._logits is not None, "the goal did not call its predict"
        wrong = self._logits.argmax(dim=1) != self.labels
        self.root._misses[self.rows[wrong]] += 1
        enough = wrong & (self.root._misses[self.rows] == self.tau + 1)
        self.root._images[self.rows[enough]] = images.detach()[enough]
        return value

    @property
    def done(self) -> Bool[Tensor, " batch"]:
        """Whether each image was misclassified at more than ``tau`` points."""
        return self.root._misses[self.rows] > self.tau

    def found(self, images: Images) -> Images:
        """``images`` with the point where the search stopped in place of each that is done."""
        done = self.done[:, None, None, None]
        return torch.where(done, self.root._images[self.rows], images)

    def narrowed(self, rows: Int[Tensor, " rows"]) -> "EarlyStoppedGoal":
        """The same goal for some of the images; what it finds is noted here too."""
        part = EarlyStoppedGoal(
            self.predict, self.clean[rows], self.labels[rows], self.climb, self.tau
        )
        part.rows, part.root = self.rows[rows], self.root
        return part

    def _recorded(self, images: Images) -> Logits:
        logits = self.predict(images)
        self._logits = logits.detach()
        return logits


def misclassified(logits: Logits, labels: Labels) -> Bool[Tensor, " batch"]:
    """Whether each row of logits ``(batch, classes)`` puts another class than its label first.

    A row that holds a NaN is right for no class.
    """
    return (logits.argmax(dim=1) != labels) | logits.isnan().any(dim=1)


class SuccessTracker:
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

    def narrowed(self, rows: Int[Tensor, " rows"]) -> "SuccessTracker":
        """The same goal for some of the images; what it finds is noted here too."""
        targets = None if self.targets is None else self.targets[rows]
        part = SuccessTracker(
            self.predict, self.labels[rows], self.loss, self.joint, targets, self.judge
        )
        part.rows, part.root = self.rows[rows], self.root
        return part

    def towards(self, targets: Labels) -> "SuccessTracker":
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
        fresh = misclassified(logits, self.labels) & ~self.broken
        if self.judge is not None and bool(fresh.any()):
            rows = fresh.nonzero().squeeze(1)
            fresh[rows] = misclassified(self.judge(images[rows].detach()), self.labels[rows])
        self.root._images[self.rows[fresh]] = images.detach()[fresh].to(self.root._images.dtype)
        self.root._broken[self.rows[fresh]] = True
