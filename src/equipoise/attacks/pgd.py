"""Projected gradient ascent. FGSM and I-FGSM are settings of it, C&W's L-inf form is a goal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from equipoise.attacks.active_batch import Work, better, value_and_gradient, value_only
from equipoise.attacks.goals import Goal
from equipoise.attacks.threat import Threat, per_image
from equipoise.distributed.shared_generator import randn_like
from equipoise.types import Images


@runtime_checkable
class Search(Protocol):
    """How an attack looks for a high point of its goal inside a threat."""

    def __call__(
        self, goal: Goal, clean: Images, threat: Threat, generator: torch.Generator
    ) -> Images:
        """Images in the threat around ``clean`` at which the goal is high."""
        ...


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient ascent with restarts.

    It reads gradients with respect to the images alone: no parameter's ``.grad``, no mode and no
    statistic is touched by it (the goal decides in which mode its model is called).

    Args:
        steps: Gradient steps, 1 or more.
        step_size: Length of a step in pixel units, in the threat's norm; cut to epsilon where it
            is longer. Give this or ``relative_step``.
        relative_step: Length of a step as a multiple of epsilon.
        random_start: Begin at a random point of the threat rather than at the clean image.
        start_noise: Begin at the clean image plus Gaussian noise of this deviation, in pixel units,
            projected onto the threat; where it is given, ``random_start`` has no say.
        restarts: Independent searches; each image keeps the one whose goal is highest.
        keep: ``"last"`` returns each search's last point, as training does; ``"best"`` the point
            with the highest goal of all visited, the last one included (one more forward pass).

    Raises:
        ValueError: If a count is not positive, or not exactly one step length is given, or several
            restarts would all start at the clean image, or the noise is not above 0.

    Source:
        Madry et al. 2018, Sec. 2.1; AFS Eq. (4) with the sign it leaves out. Deviation from the
        AFS code: ``step_size`` is cut to epsilon, and the pixel box holds at every step. The start
        by noise is that of TRADES' code; deviation: it is projected, there only the later points.
    """

    steps: int
    step_size: float | None = None
    relative_step: float | None = None
    random_start: bool = True
    start_noise: float | None = None
    restarts: int = 1
    keep: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(
                f"steps and restarts must be 1 or more, got {self.steps} and {self.restarts}."
            )
        if (self.step_size is None) == (self.relative_step is None):
            raise ValueError(
                "give exactly one of step_size (pixel units) and relative_step (share of epsilon), "
                f"got step_size={self.step_size} and relative_step={self.relative_step}."
            )
        length = self.step_size if self.step_size is not None else self.relative_step
        if length is None or not length > 0:
            raise ValueError(f"a step must be longer than 0, got {length}.")
        if self.start_noise is not None and not self.start_noise > 0:
            raise ValueError(
                f"start_noise must be above 0, got {self.start_noise}. To begin at the clean "
                "image, leave it None and set random_start=False."
            )
        if self.restarts > 1 and not self.random_start and self.start_noise is None:
            raise ValueError("restarts without random_start repeat one search; set random_start.")

    def __call__(
        self,
        goal: Goal,
        clean: Images,
        threat: Threat,
        generator: torch.Generator,
        start: Images | None = None,
    ) -> Images:
        """Search from ``clean``.

        Args:
            goal: What to climb.
            clean: Images in [0, 1].
            threat: Where to search.
            generator: The only source of randomness.
            start: Where the first search begins, projected onto the threat, in place of what the
                settings say.

        Returns:
            Images of the same shape, inside the threat, detached.

        Raises:
            ValueError: If ``start`` has another shape than ``clean``.
        """
        if start is not None and start.shape != clean.shape:
            raise ValueError(
                f"start must have the shape of the clean images, {tuple(clean.shape)}, got "
                f"{tuple(start.shape)}."
            )
        work = Work(goal, clean.detach(), threat)
        images = work.clean
        best: Sequence[Tensor] = ()
        for number in range(self.restarts):
            best = work.drop_finished(*best)
            images = self._start(work.threat, work.clean, generator)  # drawn in any case
            if start is not None and number == 0:
                images = work.threat.project(start.detach()[work.rows], work.clean)
            if work.is_over():
                break
            for _ in range(self.steps):
                value, gradient = value_and_gradient(work.goal, images)
                if self.keep == "best":
                    best = better(best, images, value)
                step = self._step(work.threat, work.clean)
                # One NaN would make a whole image NaN, which no class is right for.
                ascent = work.threat.ascent(gradient.nan_to_num())
                images = ascent.mul_(step).add_(images)
                images = work.threat.project(images, work.clean)
                images, *best = work.drop_finished(images, *best)
                if work.is_over():
                    break
            if not work.is_over() and (self.keep == "best" or self.restarts > 1):
                best = better(best, images, value_only(work.goal, images))
        return work.finish(best[0] if best else images)

    def _start(self, threat: Threat, clean: Images, generator: torch.Generator) -> Images:
        if self.start_noise is not None:
            noise = randn_like(clean, generator)
            return threat.project(clean + self.start_noise * noise, clean)
        return threat.random_start(clean, generator) if self.random_start else clean.clone()

    def _step(self, threat: Threat, clean: Images) -> float | Tensor:
        epsilon = per_image(threat.epsilon, clean)
        if self.relative_step is not None:
            return self.relative_step * epsilon
        assert self.step_size is not None  # __post_init__
        if isinstance(epsilon, Tensor):
            return epsilon.clamp_max(self.step_size)
        return min(self.step_size, epsilon)


def fgsm() -> PGD:
    """The fast gradient sign method: one step as long as epsilon, from the clean image.

    Returns:
        The search.

    Source:
        Goodfellow et al. 2015, Sec. 4.
    """
    return PGD(steps=1, relative_step=1.0, random_start=False)


def iterative_fgsm(steps: int = 10) -> PGD:
    """I-FGSM (basic iterative method): PGD from the clean image, steps of epsilon / ``steps``.

    Returns:
        The search.

    Source:
        Kurakin et al. 2017, Sec. 2; AFA Sec. 2.1 ("only a fraction of the allowed noise limit").
    """
    return PGD(steps=steps, relative_step=1.0 / steps, random_start=False)
