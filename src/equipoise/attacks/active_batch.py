"""What every search keeps: the images still under attack, and the best point so far."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.attacks.goals import Finishable, Goal
from equipoise.attacks.threat import Threat, check_images, check_threat, select_rows
from equipoise.types import Images, PerImage


class ActiveBatch:
    """The images that a search still works on; it shrinks as a ``Finishable`` goal finishes them.

    Args:
        goal: The goal to maximise.
        clean: Images in [0, 1].
        threat: Where to search.

    Raises:
        ValueError: If the images are not in [0, 1], not float32 or float64, or not a batch.

    Attributes:
        goal: The goal for the images that remain.
        clean: The clean images that remain.
        threat: The threat for the images that remain.
        rows: Their indices in the whole batch.

    Example:
        >>> import torch
        >>> from equipoise.attacks.active_batch import ActiveBatch
        >>> from equipoise.attacks.finishable_goals import SuccessTracker
        >>> from equipoise.attacks.losses import margin
        >>> from equipoise.attacks.threat import Linf
        >>> predict = lambda images: torch.cat([0.5 - images, images - 0.5], dim=1)[:, :, 0, 0]
        >>> clean = torch.tensor([0.4, 0.9, 0.3]).reshape(3, 1, 1, 1)
        >>> goal = SuccessTracker(predict, torch.tensor([0, 0, 0]), margin)
        >>> batch = ActiveBatch(goal, clean, Linf(0.1))
        >>> values = batch.goal(batch.clean)  # the second image is misclassified
        >>> (values,) = batch.drop_finished(values)
        >>> batch.rows, len(values)
        (tensor([0, 2]), 2)
        >>> batch.whole_batch(torch.zeros(2, 1, 1, 1)).flatten()
        tensor([0.0000, 0.9000, 0.0000])
    """

    def __init__(self, goal: Goal, clean: Images, threat: Threat) -> None:
        check_images(clean)
        check_threat(threat)
        self.goal, self.clean, self.threat = goal, clean, threat
        self.rows = torch.arange(len(clean), device=clean.device)
        self._whole_goal, self._whole_clean = goal, clean

    def drop_finished(self, *state: Tensor) -> tuple[Tensor, ...]:
        """Drop the images that the goal has finished.

        Args:
            state: Tensors with one row for each image that is still under attack.

        Returns:
            The same tensors without the rows of dropped images.
        """
        if not isinstance(self.goal, Finishable):
            return state
        finished = self.goal.finished
        if not bool(finished.any()):
            return state
        remaining = (~finished).nonzero().squeeze(1)
        self.rows, self.clean = self.rows[remaining], self.clean[remaining]
        self.goal = self.goal.select(remaining)
        self.threat = select_rows(self.threat, remaining)
        return tuple(tensor[remaining] for tensor in state)

    def is_empty(self) -> bool:
        """Return whether no image remains."""
        return len(self.rows) == 0

    def whole_batch(
        self, images: Float[Tensor, "remaining channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Return ``images`` together with the stored images of those that were dropped."""
        if not isinstance(self._whole_goal, Finishable):
            return images
        whole = self._whole_clean.clone()
        whole[self.rows] = images
        return self._whole_goal.replace_finished(whole)


def keep_better(
    best: Sequence[Tensor], candidate: Images, candidate_value: PerImage
) -> tuple[Images, PerImage]:
    """Keep the point with the higher value, image by image.

    Args:
        best: The best images and their values so far, or an empty sequence.
        candidate: Other points for the same images.
        candidate_value: Their values; a NaN never replaces a number.

    Returns:
        The best images and their values.
    """
    if not best:
        return candidate, candidate_value
    images, value = best
    higher = (candidate_value > value) | value.isnan()  # a tie keeps the point, a NaN does not
    chosen = torch.where(higher[:, None, None, None], candidate, images)
    return chosen, torch.where(higher, candidate_value, value)
