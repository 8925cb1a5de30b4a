"""What every search needs: the images it still works on, gradients, and the best point so far."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.attacks.goals import Finishable, Goal
from equipoise.attacks.threat import Threat, narrowed
from equipoise.types import Images, PerImage


class Work:
    """The images that a search still works on; fewer and fewer where the goal is ``Finishable``.

    Args:
        goal: What to climb.
        clean: Images in [0, 1].
        threat: Where to search.

    Attributes:
        goal: The goal of the images that are left.
        clean: Those images.
        threat: Their threat.
        rows: Their places in the whole batch.
    """

    def __init__(self, goal: Goal, clean: Images, threat: Threat) -> None:
        self.goal, self.clean, self.threat = goal, clean, threat
        self.rows = torch.arange(len(clean), device=clean.device)
        self._whole_goal, self._whole = goal, clean

    def drop_finished(self, *state: Tensor) -> tuple[Tensor, ...]:
        """Drop the images that are done.

        Args:
            state: Tensors with one row an image that is still worked on.

        Returns:
            The same tensors without the rows of dropped images.
        """
        if not isinstance(self.goal, Finishable):
            return state
        done = self.goal.done
        if not bool(done.any()):
            return state
        left = (~done).nonzero().squeeze(1)
        self.rows, self.clean = self.rows[left], self.clean[left]
        self.goal, self.threat = self.goal.narrowed(left), narrowed(self.threat, left)
        return tuple(part[left] for part in state)

    def is_over(self) -> bool:
        """Whether no image is left."""
        return len(self.rows) == 0

    def finish(
        self, images: Float[Tensor, "left channel height width"]
    ) -> Float[Tensor, "all channel height width"]:
        """All images again: these where work went on to the end, else what the goal found."""
        if not isinstance(self._whole_goal, Finishable):
            return images
        whole = self._whole.clone()
        whole[self.rows] = images
        return self._whole_goal.found(whole)


def value_and_gradient(goal: Goal, images: Images) -> tuple[PerImage, Images]:
    """The goal at ``images`` and its gradient with respect to them alone, both detached."""
    points = images.detach().requires_grad_(True)
    with torch.enable_grad():
        value = goal(points)
        (gradient,) = torch.autograd.grad(value.sum(), points)
    return value.detach(), gradient


@torch.no_grad()
def value_only(goal: Goal, images: Images) -> PerImage:
    """The goal at ``images``, without a gradient."""
    return goal(images)


def better(best: Sequence[Tensor], rival: Images, rival_value: PerImage) -> tuple[Images, PerImage]:
    """The higher of two points per image.

    Args:
        best: Images and values so far, or nothing yet.
        rival: Other images.
        rival_value: Their values; NaN never wins over a number.

    Returns:
        Images and values.
    """
    if not best:
        return rival, rival_value
    images, value = best
    wins = (rival_value > value) | value.isnan()  # not >=, and NaN is not kept
    chosen = torch.where(wins[:, None, None, None], rival, images)
    return chosen, torch.where(wins, rival_value, value)
