"""Goals that drop an image once it needs no further search."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from equipoise.attacks.goals import Confirm, Fold, Goal, JointForward, misclassified
from equipoise.types import Images, Labels, Logits, PerImage, Predict


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
        >>> from equipoise.attacks.finishable_goals import EarlyStoppedGoal
        >>> from equipoise.attacks.goals import margin
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
        >>> from equipoise.attacks.finishable_goals import SuccessTracker
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
