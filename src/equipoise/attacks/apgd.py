"""Auto-PGD: projected gradient ascent with momentum that adapts its step size per image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.attacks.active_batch import ActiveBatch, keep_better
from equipoise.attacks.goals import Goal, value_and_gradient, value_only
from equipoise.attacks.threat import Threat, broadcast_epsilon
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, PerImage


@dataclass(frozen=True, kw_only=True)
class APGD:
    """Auto-PGD: gradient ascent with momentum whose step starts at 2 epsilon and is halved.

    The search has checkpoints. At each one, an image restarts from its best point with half the
    step if too few steps since the last checkpoint raised its goal, or if its best point is still
    the same. The result is the visited point with the highest goal. One restart costs ``steps``
    gradients and one more forward pass. Images that a ``Finishable`` goal has finished cost nothing
    more, and the result for one image does not depend on when others are finished.

    Args:
        steps: Number of gradient steps, 1 or more.
        restarts: Number of independent searches, each from a random point; each image keeps the one
            with the highest goal.
        rho: The step is halved unless more than this share of the steps since the last checkpoint
            raised the goal, in [0, 1].
        momentum: The paper's alpha, in (0, 1]: weight of the new step; the rest repeats the last
            move. 1 is gradient ascent without momentum.

    Raises:
        ValueError: If a count is not positive, or ``rho`` or ``momentum`` is out of range.

    Source:
        Croce and Hein 2020, Algorithm 1, as implemented in their code: the step is also halved at
        exactly the share ``rho``; an unchanged best point does not count at the first checkpoint;
        after a return to the best point, the next value is compared with the last one before it.
        Deviations: the start is drawn uniformly from the threat, not scaled to its boundary; the
        first value is compared with that of the start (as printed), where their code compares it
        with 0; the gradient at the last point is not computed, because it is not used; a NaN in a
        gradient counts as 0.

    Example:
        >>> import torch
        >>> from equipoise.attacks import APGD
        >>> from equipoise.attacks.threat import Linf
        >>> goal = lambda images: -(images - 0.42).square().sum(dim=(1, 2, 3))  # highest at 0.42
        >>> clean = torch.full((1, 1, 1, 1), 0.5)
        >>> apgd = APGD(steps=20)
        >>> generator = torch.Generator().manual_seed(0)
        >>> for epsilon in (0.2, 0.05):  # 0.42 is inside the first ball, outside the second
        ...     print(f"{apgd(goal, clean, Linf(epsilon), generator).item():.2f}")
        0.42
        0.45
    """

    steps: int = 100
    restarts: int = 1
    rho: float = 0.75
    momentum: float = 0.75

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise InvalidInput(
                f"steps and restarts must be 1 or more, got {self.steps} and {self.restarts}."
            )
        if not 0 <= self.rho <= 1:
            raise InvalidInput(f"rho must be a share in [0, 1], got {self.rho}.")
        if not 0 < self.momentum <= 1:
            raise InvalidInput(
                f"momentum must be in (0, 1], got {self.momentum}; 1 is ascent without momentum."
            )

    def __call__(
        self, goal: Goal, clean: Images, threat: Threat, generator: torch.Generator
    ) -> Images:
        """Search from random points, as ``Search`` says."""
        clean = clean.detach()
        batch = ActiveBatch(goal, clean, threat)
        best: Sequence[Tensor] = ()
        for _ in range(self.restarts):
            best = batch.drop_finished(*best)
            if batch.is_empty():
                break
            # Drawn for the whole batch, so that a start does not depend on when others finished.
            start = threat.random_start(clean, generator)[batch.rows]
            best = self._search(batch, start, best)
        return batch.whole_batch(best[0] if best else batch.clean)

    def _search(
        self, batch: ActiveBatch, start: Images, best: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        state = _initial_state(batch, start)
        step_numbers = checkpoints(self.steps)
        last_checkpoint = 0
        for step in range(1, self.steps + 1):
            remaining = batch.drop_finished(*state, *best)
            state, best = _State(*remaining[: len(state)]), remaining[len(state) :]
            if batch.is_empty():
                break
            images = self._next_point(batch, state, momentum=1.0 if step == 1 else self.momentum)
            if step < self.steps:
                state = state.after_step(images, *_value_and_gradient(batch.goal, images))
            else:
                state = state.after_step(images, value_only(batch.goal, images), state.gradient)
            if step in step_numbers:
                state = state.after_checkpoint(self.rho * (step - last_checkpoint))
                last_checkpoint = step
        return keep_better(best, state.best, state.best_value)

    def _next_point(self, batch: ActiveBatch, state: "_State", momentum: float) -> Images:
        ahead = state.images + state.step * batch.threat.ascent(state.gradient)
        ahead = batch.threat.project(ahead, batch.clean)
        last_move = state.images - state.previous
        images = state.images + (ahead - state.images) * momentum + last_move * (1 - momentum)
        return batch.threat.project(images, batch.clean)


def checkpoints(steps: int) -> list[int]:
    """Return the numbers of the steps after which the step size may be halved.

    Returns:
        Step numbers, ascending, all below ``steps``. The first is at 22 % of the steps; each gap is
        3 % of the steps shorter than the one before, down to 6 %.

    Source:
        Croce and Hein 2020, their rule for the checkpoints w_j. Deviation: shares are rounded down
        to whole steps as in their code; the paper rounds up.

    Example:
        >>> from equipoise.attacks.apgd import checkpoints
        >>> checkpoints(100)
        [22, 41, 57, 70, 80, 87, 93, 99]
    """
    gap, shrink, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    numbers = []
    number = gap
    while number < steps:
        numbers.append(number)
        gap = max(gap - shrink, least)
        number += gap
    return numbers


class _State(NamedTuple):
    """The state of a search. Every tensor has one row per image."""

    images: Tensor
    previous: Tensor  # the images before the last move
    value: Tensor
    gradient: Tensor
    best: Tensor
    best_value: Tensor
    best_gradient: Tensor
    step: Tensor  # pixel units, (batch, 1, 1, 1)
    rises: Tensor  # moves since the last checkpoint that raised the value
    halved: Tensor  # whether the last checkpoint halved the step
    checkpoint_value: Tensor  # the best value at the last checkpoint

    def after_step(self, images: Images, value: PerImage, gradient: Images) -> "_State":
        """Move to ``images`` and update the best point."""
        higher = (value > self.best_value) | self.best_value.isnan()
        return self._replace(
            images=images,
            previous=self.images,
            value=value,
            gradient=gradient,
            best=_where(higher, images, self.best),
            best_value=torch.where(higher, value, self.best_value),
            best_gradient=_where(higher, gradient, self.best_gradient),
            rises=self.rises + (value > self.value),
        )

    def after_checkpoint(self, enough_rises: float) -> "_State":
        """Return to the best point with half the step, for the images that need it."""
        stuck = ~self.halved & ~(self.best_value > self.checkpoint_value)
        halve = (self.rises <= enough_rises) | stuck
        return self._replace(
            images=_where(halve, self.best, self.images),
            gradient=_where(halve, self.best_gradient, self.gradient),
            step=_where(halve, self.step / 2, self.step),
            rises=torch.zeros_like(self.rises),
            halved=halve,
            checkpoint_value=self.best_value,
        )


def _initial_state(batch: ActiveBatch, start: Images) -> _State:
    value, gradient = _value_and_gradient(batch.goal, start)
    epsilon = broadcast_epsilon(batch.threat.epsilon, batch.clean)
    return _State(
        images=start,
        previous=start,
        value=value,
        gradient=gradient,
        best=start,
        best_value=value,
        best_gradient=gradient,
        step=torch.full_like(start[:, :1, :1, :1], 2.0) * epsilon,
        rises=torch.zeros_like(value, dtype=torch.long),
        halved=torch.ones_like(value, dtype=torch.bool),  # no image is stuck at the first one
        checkpoint_value=value,
    )


def _value_and_gradient(goal: Goal, images: Images) -> tuple[PerImage, Images]:
    value, gradient = value_and_gradient(goal, images)
    return value, gradient.nan_to_num()  # momentum would carry a NaN to the end of the search


def _where(rows: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    return torch.where(rows[:, None, None, None], chosen, other)
