"""Auto-PGD: projected gradient ascent that sets its own step length, image by image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.attacks.active_batch import Work, better, value_and_gradient, value_only
from equipoise.attacks.goals import Goal
from equipoise.attacks.threat import Threat, per_image
from equipoise.types import Images, PerImage


@dataclass(frozen=True, kw_only=True)
class APGD:
    """Gradient ascent with momentum whose steps start at twice epsilon and are halved on the way.

    At each of its ``checkpoints`` an image whose goal rose too seldom, or whose best point is the
    same as at the last one, goes back to its best point and on with half the step. Each image
    ends at the point with the highest goal of all visited. One restart costs ``steps`` gradients
    and one forward pass more. An image that a ``Finishable`` goal is done with costs nothing
    further, and what is found for one image does not depend on when others are done.

    Args:
        steps: Gradient steps, 1 or more.
        restarts: Independent searches, each from a random point; each image keeps the one whose
            goal is highest.
        rho: Share of the steps since the last checkpoint that has to raise the goal, or the step
            is halved, [0, 1].
        momentum: The paper's alpha, (0, 1]: share of the new step; the rest repeats the last move.
            1 is plain ascent.

    Raises:
        ValueError: If a count is not positive or a share lies outside its range.

    Source:
        Croce and Hein 2020, Algorithm 1, in the form of their code: the step is halved at exactly
        the share ``rho`` too, not for want of a better point at the first checkpoint, and after
        going back the next value is compared with the last one before. Deviations: the first
        point is drawn uniformly from the threat, not stretched to its border; the first value is
        compared with the start's (as printed), where their code compares it with 0; the last
        point's gradient, which nobody reads, is not computed; a NaN in a gradient counts as 0.
    """

    steps: int = 100
    restarts: int = 1
    rho: float = 0.75
    momentum: float = 0.75

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(
                f"steps and restarts must be 1 or more, got {self.steps} and {self.restarts}."
            )
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho must be a share in [0, 1], got {self.rho}.")
        if not 0 < self.momentum <= 1:
            raise ValueError(
                f"momentum must be in (0, 1], got {self.momentum}; 1 is ascent without momentum."
            )

    def __call__(
        self, goal: Goal, clean: Images, threat: Threat, generator: torch.Generator
    ) -> Images:
        """Search from random points around ``clean``.

        Args:
            goal: What to climb.
            clean: Images in [0, 1].
            threat: Where to search.
            generator: The only source of randomness.

        Returns:
            Images of the same shape, inside the threat, detached.
        """
        clean = clean.detach()
        work = Work(goal, clean, threat)
        best: Sequence[Tensor] = ()
        for _ in range(self.restarts):
            best = work.drop_finished(*best)
            if work.is_over():
                break
            # For all images, so that a start does not depend on when others were done.
            start = threat.random_start(clean, generator)[work.rows]
            best = self._search(work, start, best)
        return work.finish(best[0] if best else work.clean)

    def _search(self, work: Work, start: Images, best: Sequence[Tensor]) -> Sequence[Tensor]:
        climb = _begin(work, start)
        marks = checkpoints(self.steps)
        last_mark = 0
        for step in range(1, self.steps + 1):
            left = work.drop_finished(*climb, *best)
            climb, best = _Climb(*left[: len(climb)]), left[len(climb) :]
            if work.is_over():
                break
            images = self._move(work, climb, share=1.0 if step == 1 else self.momentum)
            if step < self.steps:
                climb = climb.at(images, *_value_and_gradient(work.goal, images))
            else:
                climb = climb.at(images, value_only(work.goal, images), climb.gradient)
            if step in marks:
                climb = climb.checked(enough=self.rho * (step - last_mark))
                last_mark = step
        return better(best, climb.best, climb.best_value)

    def _move(self, work: Work, climb: "_Climb", share: float) -> Images:
        ahead = climb.images + climb.step * work.threat.ascent(climb.gradient)
        ahead = work.threat.project(ahead, work.clean)
        again = climb.images - climb.previous
        images = climb.images + (ahead - climb.images) * share + again * (1 - share)
        return work.threat.project(images, work.clean)


def checkpoints(steps: int) -> list[int]:
    """After which steps the step length is looked at.

    Returns:
        Counts of steps, ascending, all below ``steps``. The first comes after 22 % of the steps;
        each gap is 3 % of the steps shorter than the one before, down to 6 %.

    Source:
        Croce and Hein 2020, their rule for the checkpoints w_j. Deviation: shares are cut to whole
        steps as in their code; the paper rounds up.
    """
    gap, shrink, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    marks = []
    mark = gap
    while mark < steps:
        marks.append(mark)
        gap = max(gap - shrink, least)
        mark += gap
    return marks


class _Climb(NamedTuple):
    """Where each image stands. Every tensor has one row an image."""

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
    checked_value: Tensor  # the best value at the last checkpoint

    def at(self, images: Images, value: PerImage, gradient: Images) -> "_Climb":
        """After a move."""
        wins = (value > self.best_value) | self.best_value.isnan()
        return self._replace(
            images=images,
            previous=self.images,
            value=value,
            gradient=gradient,
            best=_choose(wins, images, self.best),
            best_value=torch.where(wins, value, self.best_value),
            best_gradient=_choose(wins, gradient, self.best_gradient),
            rises=self.rises + (value > self.value),
        )

    def checked(self, enough: float) -> "_Climb":
        """After a checkpoint: back to the best point with half the step, where that is due."""
        stuck = ~self.halved & ~(self.best_value > self.checked_value)
        halve = (self.rises <= enough) | stuck
        return self._replace(
            images=_choose(halve, self.best, self.images),
            gradient=_choose(halve, self.best_gradient, self.gradient),
            step=_choose(halve, self.step / 2, self.step),
            rises=torch.zeros_like(self.rises),
            halved=halve,
            checked_value=self.best_value,
        )


def _begin(work: Work, start: Images) -> _Climb:
    value, gradient = _value_and_gradient(work.goal, start)
    epsilon = per_image(work.threat.epsilon, work.clean)
    return _Climb(
        images=start,
        previous=start,
        value=value,
        gradient=gradient,
        best=start,
        best_value=value,
        best_gradient=gradient,
        step=torch.full_like(start[:, :1, :1, :1], 2.0) * epsilon,
        rises=torch.zeros_like(value, dtype=torch.long),
        halved=torch.ones_like(value, dtype=torch.bool),  # so no image is stuck at the first check
        checked_value=value,
    )


def _value_and_gradient(goal: Goal, images: Images) -> tuple[PerImage, Images]:
    value, gradient = value_and_gradient(goal, images)
    return value, gradient.nan_to_num()  # one NaN would stay in the images to the end


def _choose(where: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(where[:, None, None, None], yes, no)
