"""Goals: what an attack maximises. A goal takes images and returns one number per image.

A goal closes over everything it needs (a model's ``predict``, labels, a surrogate), so a search
never sees a model. ``predict`` is any function from images in [0, 1] to logits.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from equipoise.attacks import losses
from equipoise.types import Images, Labels, Logits, PerImage, Predict

JointForward = Callable[[Images], tuple[Logits, Logits, PerImage | float]]
"""One forward pass with three results: the logits that decide whether an image is misclassified,
the logits that the loss is computed from, and a term that is added to the loss."""

Confirm = Callable[[Images, Labels], Bool[Tensor, " batch"]]
"""Whether each image is misclassified, asked of another function than the one under search."""

Fold = Callable[[Logits, Labels], Logits]
"""Changes logits, given the labels, before they are scored."""


@runtime_checkable
class Goal(Protocol):
    """A function from images ``(batch, channel, height, width)`` to one number per image.

    Higher is worse for the model. Row i of the result depends on row i of the images alone.
    """

    def __call__(self, images: Images, /) -> PerImage:
        """Return the value to maximise, per image."""
        ...


@runtime_checkable
class Finishable(Goal, Protocol):
    """A goal that knows which images need no further search, so that a search can drop them."""

    @property
    def finished(self) -> Bool[Tensor, " batch"]:
        """Whether each image needs no further search."""
        ...

    def replace_finished(self, images: Images) -> Images:
        """Return ``images`` with each finished one replaced by its stored adversarial image."""
        ...

    def select(self, rows: Int[Tensor, " rows"]) -> "Finishable":
        """Return the goal for some of the images; it shares what it has visited with this one."""
        ...


def value_and_gradient(goal: Goal, images: Images) -> tuple[PerImage, Images]:
    """Return the goal at ``images`` and its gradient with respect to them, both detached."""
    points = images.detach().requires_grad_(True)
    with torch.enable_grad():
        value = goal(points)
        (gradient,) = torch.autograd.grad(value.sum(), points)
    return value.detach(), gradient


@torch.no_grad()
def value_only(goal: Goal, images: Images) -> PerImage:
    """Return the goal at ``images``, computed without a gradient."""
    return goal(images)


def cross_entropy(predict: Predict, labels: Labels) -> Goal:
    """Build the goal that maximises the cross-entropy of the labels.

    Returns:
        The goal of PGD-AT, AFS Eq. (3)-(5) and the papers' PGD evaluations.

    Example:
        >>> import torch
        >>> from equipoise.attacks import fgsm
        >>> from equipoise.attacks.goals import cross_entropy
        >>> from equipoise.attacks.threat import Linf
        >>> predict = lambda images: torch.stack([images.sum((1, 2, 3)), torch.ones(2)], dim=1)
        >>> goal = cross_entropy(predict, labels=torch.tensor([0, 1]))
        >>> fgsm()(goal, torch.full((2, 1, 1, 1), 0.5), Linf(0.1), torch.Generator()).flatten()
        tensor([0.4000, 0.6000])
    """
    return lambda images: losses.cross_entropy(predict(images), labels)


def margin(predict: Predict, labels: Labels) -> Goal:
    """Build the goal that maximises the largest wrong logit minus the label's logit.

    Returns:
        The goal of the C&W attack in its L-inf form without kappa. It is positive exactly where
        the image is misclassified, so the best point of a search is misclassified if any was.

    Example:
        >>> import torch
        >>> from equipoise.attacks.goals import margin
        >>> predict = lambda images: images.flatten(1)  # two pixels are the two logits
        >>> goal = margin(predict, labels=torch.tensor([0, 0]))
        >>> goal(torch.tensor([[0.75, 0.25], [0.25, 1.0]]).reshape(2, 1, 1, 2))
        tensor([-0.5000,  0.7500])
    """
    return lambda images: losses.margin(predict(images), labels)


def dlr(predict: Predict, labels: Labels) -> Goal:
    """Build the goal that maximises the difference of logits ratio.

    Returns:
        The goal of APGD-DLR, for three classes or more: the margin, made independent of the scale
        of the logits.

    Example:
        >>> import torch
        >>> from equipoise.attacks.goals import dlr
        >>> predict = lambda images: 100 * images.flatten(1)
        >>> goal = dlr(predict, labels=torch.tensor([0]))
        >>> goal(torch.tensor([0.75, 0.5, 0.25]).reshape(1, 1, 1, 3))
        tensor([-0.5000])
    """
    return lambda images: losses.dlr(predict(images), labels)


def kl_divergence(predict: Predict, clean: Images) -> Goal:
    """Build the goal that maximises the KL divergence from the prediction at the clean images.

    The clean prediction is computed once, at the first call of the goal, so that it is made in the
    mode in which the network is attacked.

    Returns:
        The goal of TRADES' training attack. Its gradient is zero at the clean images themselves,
        so a search has to start next to them.

    Example:
        >>> import torch
        >>> from equipoise.attacks.goals import kl_divergence
        >>> clean = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
        >>> goal = kl_divergence(lambda images: images.flatten(1), clean)
        >>> goal(clean), goal(1 - clean)
        (tensor([0.]), tensor([0.4621]))
    """
    reference: list[Logits] = []

    def goal(images: Images) -> PerImage:
        if not reference:
            with torch.no_grad():
                reference.append(predict(clean))
        return losses.kl_divergence(predict(images), reference[0])

    return goal


def misclassified(logits: Logits, labels: Labels) -> Bool[Tensor, " batch"]:
    """Return whether the largest logit of each row is not the label's.

    A row that contains a NaN counts as misclassified whatever its label.

    Example:
        >>> import torch
        >>> from equipoise.attacks.goals import misclassified
        >>> logits = torch.tensor([[2.0, 1.0], [2.0, 1.0], [torch.nan, 1.0]])
        >>> misclassified(logits, torch.tensor([0, 1, 0]))
        tensor([False,  True,  True])
    """
    return (logits.argmax(dim=1) != labels) | logits.isnan().any(dim=1)


def fold_reject(logits: Logits, labels: Labels) -> Logits:
    """Fold the last class, "reject", into the label's: rejecting an attacked image is no error.

    Args:
        logits: ``(batch, classes + 1)``; the last column is the logit of "reject".
        labels: Class indices.

    Returns:
        ``(batch, classes)``: the label's logit becomes the larger of its own and that of "reject",
        so the image is misclassified exactly where the largest of all logits is neither of them.

    Source:
        Tramer et al. 2020, the rule for defences that may reject an input.

    Example:
        >>> import torch
        >>> from equipoise.attacks.goals import fold_reject, misclassified
        >>> logits = torch.tensor([[1.0, 2.0, 3.0], [1.0, 4.0, 3.0]])  # two classes and "reject"
        >>> misclassified(fold_reject(logits, torch.tensor([0, 0])), torch.tensor([0, 0]))
        tensor([False,  True])
    """
    known, reject = logits[:, :-1], logits[:, -1:]
    index = labels[:, None].long()
    return known.scatter(1, index, torch.maximum(known.gather(1, index), reject))


@dataclass
class PassCount:
    """Images sent through a network, and those of them whose gradient was computed."""

    forward: int = 0
    backward: int = 0

    def add(self, images: Images) -> None:
        """Count one call; its backward pass counts if autograd records it."""
        self.forward += len(images)
        if torch.is_grad_enabled() and images.requires_grad:
            self.backward += len(images)


class _Visited:
    """The misclassified points of a whole batch, shared by a goal and its selections.

    An image is finished once it was misclassified at ``limit`` visited points; the last of these
    points is stored.
    """

    def __init__(self, labels: Labels, limit: int, storage: Images | None = None) -> None:
        self.counts = torch.zeros_like(labels)
        self.limit, self.storage = limit, storage

    def add(self, rows: Tensor, images: Images, wrong: Bool[Tensor, " rows"]) -> None:
        if self.storage is None:
            shape = (len(self.counts), *images.shape[1:])
            self.storage = torch.zeros(shape, device=images.device)
        self.counts[rows[wrong]] += 1
        store = wrong & (self.counts[rows] == self.limit)
        self.storage[rows[store]] = images.detach()[store].to(self.storage.dtype)

    def finished(self, rows: Tensor) -> Bool[Tensor, " rows"]:
        return self.counts[rows] >= self.limit

    def images(self, rows: Tensor) -> Images:
        assert self.storage is not None, "no point has been visited yet"
        return self.storage[rows]

    def replace_finished(self, rows: Tensor, images: Images) -> Images:
        finished = self.finished(rows)
        if not bool(finished.any()):
            return images
        stored = self.images(rows).to(images.dtype)
        return torch.where(finished[:, None, None, None], stored, images)


class EarlyStoppedGoal:
    """A ``Finishable`` goal that stops the attack soon after it crosses the decision boundary.

    It counts the visited points at which an image is misclassified. The image is finished at the
    point that makes this count exceed ``tau``: ``tau`` steps after the first misclassified point,
    unless the search crosses back. That point is the stored one.

    Args:
        predict: Images to logits.
        clean: The images under attack.
        labels: Class indices, ``(batch,)``.
        make_goal: Builds the goal to maximise, as ``make_goal(predict, clean, labels)``. The last
            call of its ``predict`` has to be at the visited points. The goal is built again for the
            images that remain, so one that starts by predicting the clean images repeats that.
        tau: Number of further misclassified points, 0 or more.

    Source:
        Zhang et al. 2020 (FAT), Algorithm 1.

    Example:
        >>> import torch
        >>> from equipoise.attacks.goals import EarlyStoppedGoal, margin
        >>> predict = lambda images: torch.cat([0.5 - images, images - 0.5], dim=1)[:, :, 0, 0]
        >>> make_goal = lambda predict, clean, labels: margin(predict, labels)
        >>> clean, label = torch.zeros(1, 1, 1, 1), torch.tensor([0])
        >>> goal = EarlyStoppedGoal(predict, clean, label, make_goal, tau=1)
        >>> for pixel in (0.25, 0.625, 0.75):
        ...     _ = goal(torch.full((1, 1, 1, 1), pixel))
        ...     print(pixel, goal.finished.item())
        0.25 False
        0.625 False
        0.75 True
        >>> goal.replace_finished(clean).item()
        0.75
    """

    def __init__(
        self,
        predict: Predict,
        clean: Images,
        labels: Labels,
        make_goal: Callable[[Predict, Images, Labels], Goal],
        tau: int,
    ) -> None:
        self.predict, self.clean, self.labels, self.make_goal = predict, clean, labels, make_goal
        self.rows = torch.arange(len(labels), device=labels.device)
        self._visited = _Visited(labels, limit=tau + 1, storage=torch.zeros_like(clean))
        self._build_goal()

    def __call__(self, images: Images, /) -> PerImage:
        """Evaluate the goal at ``images`` and count those that are misclassified."""
        value = self._goal(images)
        assert self._logits is not None, "the goal did not call its predict"
        self._visited.add(self.rows, images, misclassified(self._logits, self.labels))
        return value

    @property
    def finished(self) -> Bool[Tensor, " batch"]:
        """Whether each image was misclassified at more than ``tau`` points."""
        return self._visited.finished(self.rows)

    def replace_finished(self, images: Images) -> Images:
        """Return ``images`` with each finished one replaced by the point where it stopped."""
        return self._visited.replace_finished(self.rows, images)

    def select(self, rows: Int[Tensor, " rows"]) -> "EarlyStoppedGoal":
        """Return the goal for some of the images; it shares its counts with this one."""
        part = copy.copy(self)
        part.rows, part.clean, part.labels = self.rows[rows], self.clean[rows], self.labels[rows]
        part._build_goal()
        return part

    def _build_goal(self) -> None:
        self._logits: Logits | None = None
        self._goal = self.make_goal(self._predict_and_keep, self.clean, self.labels)

    def _predict_and_keep(self, images: Images) -> Logits:
        logits = self.predict(images)
        self._logits = logits.detach()
        return logits


class SuccessTracker:
    """A ``Finishable`` goal that stores the first misclassified point of every image.

    A search returns the point where its goal is highest. Under the cross-entropy, that point need
    not be misclassified although another visited point was. Evaluation counts any misclassified
    point, and does no further work on an image that has one.

    Args:
        predict: Images to logits.
        labels: Class indices, ``(batch,)``.
        loss: Per-image loss to maximise, called as ``loss(logits, labels)``, or as
            ``loss(logits, labels, targets)`` if there are targets.
        joint: Called instead of ``predict``, for attacks on something besides the logits, such as
            AFA's gate.
        targets: Class to push each image towards, ``(batch,)``, for a targeted loss.
        confirm: Called with images and labels; a point that ``predict`` misclassifies counts only
            if this function returns True for it. For a ``predict`` of lower precision, or one that
            is a mean over random draws.
        fold: Changes logits before they are scored and before the loss, see ``fold_reject``.

    Attributes:
        passes: Calls of ``predict`` or ``joint``, counted in images.

    Example:
        >>> import torch
        >>> from equipoise.attacks import PGD, losses
        >>> from equipoise.attacks.goals import SuccessTracker
        >>> from equipoise.attacks.threat import Linf
        >>> predict = lambda images: torch.cat([0.5 - images, images - 0.5], dim=1)[:, :, 0, 0]
        >>> clean = torch.tensor([0.45, 0.2]).reshape(2, 1, 1, 1)
        >>> tracker = SuccessTracker(predict, torch.tensor([0, 0]), losses.margin)
        >>> search = PGD(steps=4, relative_step=0.5, random_start=False)
        >>> adversarial = search(tracker, clean, Linf(0.1), torch.Generator())
        >>> tracker.broken
        tensor([ True, False])
    """

    def __init__(
        self,
        predict: Predict,
        labels: Labels,
        loss: Callable[..., PerImage],
        joint: JointForward | None = None,
        targets: Labels | None = None,
        confirm: Confirm | None = None,
        fold: Fold | None = None,
    ) -> None:
        self.predict, self.joint, self.confirm, self.fold = predict, joint, confirm, fold
        self.labels, self.targets, self.loss = labels, targets, loss
        self.rows = torch.arange(len(labels), device=labels.device)
        self.passes = PassCount()
        self._visited = _Visited(labels, limit=1)

    def __call__(self, images: Images, /) -> PerImage:
        """Evaluate the loss at ``images`` and store those that are newly misclassified."""
        self.passes.add(images)
        added: PerImage | float = 0.0
        if self.joint is None:
            logits = attacked_logits = self.predict(images)
        else:
            logits, attacked_logits, added = self.joint(images)
        self.record(images, logits)
        if self.fold is not None:
            attacked_logits = self.fold(attacked_logits, self.labels)
        if self.targets is None:
            return self.loss(attacked_logits, self.labels) + added
        return self.loss(attacked_logits, self.labels, self.targets) + added

    @property
    def broken(self) -> Bool[Tensor, " batch"]:
        """Whether a misclassified point of each image was visited."""
        return self._visited.finished(self.rows)

    finished = broken

    @property
    def images(self) -> Images:
        """The first misclassified point of each image; rows without one are zero."""
        return self._visited.images(self.rows)

    def replace_finished(self, images: Images) -> Images:
        """Return ``images`` with each broken one replaced by its misclassified point."""
        return self._visited.replace_finished(self.rows, images)

    def select(self, rows: Int[Tensor, " rows"]) -> "SuccessTracker":
        """Return the goal for some of the images; it shares what it has visited with this one."""
        part = copy.copy(self)
        part.rows, part.labels = self.rows[rows], self.labels[rows]
        part.targets = None if self.targets is None else self.targets[rows]
        return part

    def with_targets(self, targets: Labels) -> "SuccessTracker":
        """Return the goal with other targets; it shares what it has visited with this one."""
        part = copy.copy(self)
        part.targets = targets
        return part

    @torch.no_grad()
    def record(self, images: Images, logits: Logits) -> None:
        """Store the images that ``logits`` misclassify and that were not broken before."""
        if self.fold is not None:
            logits = self.fold(logits, self.labels)
        wrong = misclassified(logits, self.labels) & ~self.broken
        if self.confirm is not None and bool(wrong.any()):
            rows = wrong.nonzero().squeeze(1)
            wrong[rows] = self.confirm(images[rows].detach(), self.labels[rows])
        self._visited.add(self.rows, images, wrong)

    def record_broken(self, images: Images, wrong: Bool[Tensor, " batch"]) -> None:
        """Store the images that are known to be ``wrong`` and that were not broken before."""
        self._visited.add(self.rows, images, wrong & ~self.broken)
