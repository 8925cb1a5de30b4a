"""PGD: projected gradient ascent. FGSM and I-FGSM are settings of it; C&W (L-inf) is a goal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from equipoise.attacks.active_batch import ActiveBatch, keep_better
from equipoise.attacks.goals import Goal, value_and_gradient, value_only
from equipoise.attacks.threat import Threat, broadcast_epsilon
from equipoise.distributed.shared_generator import randn_like, uniform_like
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images

StartNoise = float | Literal["signs"] | None
"""Where a training attack starts: the standard deviation of Gaussian noise in pixel units, or half
of epsilon up or down, drawn for each pixel; ``None`` leaves it to other settings."""


@runtime_checkable
class Search(Protocol):
    """An algorithm that looks for a high value of a goal inside a threat.

    Any function with this signature is a search.

    Example:
        >>> from equipoise.attacks import PGD, Search
        >>> def random_point(goal, clean, threat, generator):
        ...     return threat.random_start(clean, generator)
        >>> isinstance(random_point, Search), isinstance(PGD(steps=1, relative_step=1.0), Search)
        (True, True)
    """

    def __call__(
        self, goal: Goal, clean: Images, threat: Threat, generator: torch.Generator
    ) -> Images:
        """Return images inside the threat around ``clean`` at which the goal is high.

        Args:
            goal: The goal to maximise.
            clean: Images in [0, 1].
            threat: Where to search.
            generator: The only source of randomness.

        Returns:
            Images of the same shape, inside the threat, detached.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient ascent with restarts.

    PGD computes gradients with respect to the images alone. It never changes a parameter's
    ``.grad``, a batch-norm statistic or the train/eval mode; the goal decides in which mode its
    model is called.

    Args:
        steps: Number of gradient steps, 1 or more.
        step_size: Length of a step in pixel units, in the threat's norm. It may be longer than
            epsilon, as in AFS's attack at 1/255; the step then ends on the threat's boundary. Give
            this or ``relative_step``.
        relative_step: Length of a step as a multiple of epsilon.
        random_start: Start at a random point of the threat instead of the clean image.
        start_noise: Start at the clean image plus Gaussian noise of this standard deviation, in
            pixel units, projected onto the threat; ``"signs"`` moves every pixel by half of epsilon
            up or down. Overrides ``random_start``.
        restarts: Number of independent searches; each image keeps the one with the highest goal.
        keep: ``"last"`` returns the last point of each search, as training does. ``"best"`` returns
            the visited point with the highest goal, which costs one more forward pass.

    Raises:
        ValueError: If a count is not positive, if not exactly one step length is given, if several
            restarts would all start at the clean image, or if the noise is not positive.

    Source:
        Madry et al. 2018, Sec. 2.1; AFS Eq. (4) with the sign that it omits. Deviation from the
        AFS code: images stay in [0, 1] at every step. The noise start is that of the TRADES code;
        deviation: here the start is projected too. ``"signs"`` is the start of GAT
        (Sriramanan et al. 2020).

    Example:
        >>> import torch
        >>> from equipoise.attacks import PGD
        >>> from equipoise.attacks.threat import Linf
        >>> goal = lambda images: images.sum(dim=(1, 2, 3))  # maximised by the brightest image
        >>> pgd = PGD(steps=10, relative_step=0.25)
        >>> clean = torch.tensor([0.2, 0.9]).reshape(2, 1, 1, 1)
        >>> threat = Linf(torch.tensor([0.1, 0.3]))  # one epsilon per image
        >>> pgd(goal, clean, threat, torch.Generator().manual_seed(0)).flatten()
        tensor([0.3000, 1.0000])
    """

    steps: int
    step_size: float | None = None
    relative_step: float | None = None
    random_start: bool = True
    start_noise: StartNoise = None
    restarts: int = 1
    keep: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        if not all(isinstance(n, int) and n >= 1 for n in (self.steps, self.restarts)):
            raise InvalidInput(
                "steps and restarts must be whole numbers of 1 or more, got "
                f"{self.steps} and {self.restarts}."
            )
        if (self.step_size is None) == (self.relative_step is None):
            raise InvalidInput(
                "give exactly one of step_size (pixel units) and relative_step (multiple of "
                f"epsilon), got step_size={self.step_size} and relative_step={self.relative_step}."
            )
        length = self.step_size if self.step_size is not None else self.relative_step
        if length is None or not length > 0:
            raise InvalidInput(f"the length of a step must be above 0, got {length}.")
        if isinstance(self.start_noise, (int, float)) and not self.start_noise > 0:
            raise InvalidInput(
                f"start_noise must be above 0, got {self.start_noise}. To start at the clean "
                "image, leave it None and set random_start=False."
            )
        if self.restarts > 1 and not self.random_start and self.start_noise is None:
            raise InvalidInput(
                f"restarts must be 1 without random_start, got {self.restarts}: every restart "
                "would repeat the same search. Set random_start=True."
            )

    def __call__(
        self,
        goal: Goal,
        clean: Images,
        threat: Threat,
        generator: torch.Generator,
        start: Images | None = None,
    ) -> Images:
        """Search as ``Search`` says.

        Args:
            start: Start of the first search, projected onto the threat. Overrides ``random_start``
                and ``start_noise`` there.

        Raises:
            ValueError: If ``start`` and ``clean`` have different shapes.
        """
        if start is not None and start.shape != clean.shape:
            raise InvalidInput(
                f"start must have the shape of the clean images, {tuple(clean.shape)}, got "
                f"{tuple(start.shape)}."
            )
        batch = ActiveBatch(goal, clean.detach(), threat)
        images = batch.clean
        best: Sequence[Tensor] = ()
        for restart in range(self.restarts):
            best = batch.drop_finished(*best)
            images = self._start(batch.threat, batch.clean, generator)  # drawn in any case
            if start is not None and restart == 0:
                images = batch.threat.project(start.detach()[batch.rows], batch.clean)
            if batch.is_empty():
                break
            for _ in range(self.steps):
                value, gradient = value_and_gradient(batch.goal, images)
                if self.keep == "best":
                    best = keep_better(best, images, value)
                # A single NaN would turn the whole image into NaN, which is always misclassified.
                direction = batch.threat.ascent(gradient.nan_to_num())
                images = direction.mul_(self._step_length(batch.threat, batch.clean)).add_(images)
                images = batch.threat.project(images, batch.clean)
                images, *best = batch.drop_finished(images, *best)
                if batch.is_empty():
                    break
            if not batch.is_empty() and (self.keep == "best" or self.restarts > 1):
                best = keep_better(best, images, value_only(batch.goal, images))
        return batch.whole_batch(best[0] if best else images)

    def _start(self, threat: Threat, clean: Images, generator: torch.Generator) -> Images:
        if self.start_noise == "signs":
            signs = uniform_like(clean, -1.0, 1.0, generator).sign()
            return threat.project(
                clean + signs * broadcast_epsilon(threat.epsilon, clean) / 2, clean
            )
        if self.start_noise is not None:
            noise = randn_like(clean, generator)
            return threat.project(clean + self.start_noise * noise, clean)
        return threat.random_start(clean, generator) if self.random_start else clean.clone()

    def _step_length(self, threat: Threat, clean: Images) -> float | Tensor:
        if self.step_size is not None:
            return self.step_size
        assert self.relative_step is not None  # __post_init__ requires one of the two
        return self.relative_step * broadcast_epsilon(threat.epsilon, clean)


def fgsm() -> PGD:
    """Build the fast gradient sign method: one step of length epsilon from the clean image.

    Returns:
        The search.

    Source:
        Goodfellow et al. 2015, Sec. 4.

    Example:
        >>> from equipoise.attacks import fgsm
        >>> fgsm().steps, fgsm().relative_step, fgsm().random_start
        (1, 1.0, False)
    """
    return PGD(steps=1, relative_step=1.0, random_start=False)


def iterative_fgsm(steps: int = 10) -> PGD:
    """Build I-FGSM (the basic iterative method): PGD from the clean image, steps of epsilon / n.

    Returns:
        The search.

    Source:
        Kurakin et al. 2017, Sec. 2; AFA Sec. 2.1 ("only a fraction of the allowed noise limit").

    Example:
        >>> from equipoise.attacks import iterative_fgsm
        >>> iterative_fgsm(steps=4).relative_step
        0.25
    """
    return PGD(steps=steps, relative_step=1.0 / steps, random_start=False)
