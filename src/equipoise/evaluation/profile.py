"""The result of an evaluation: what every attack did to every image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from equipoise.evaluation.attack import Kind
from equipoise.evaluation.statistics import wilson_interval
from equipoise.evaluation.suite import Suite
from equipoise.evaluation.verification import Rescoring

NEVER = -1
"""Level at which an image was broken that was never broken."""

Order = Literal["ascending", "descending"]


@dataclass(frozen=True, kw_only=True)
class AttackOutcome:
    """What one attack did to all images of an evaluation.

    Args:
        suite: Name of its suite.
        name: Name of the attack.
        kind: What the attacker knows.
        broken_at: ``(n,)``: index of the lowest strength at which it broke the image; 0 if the
            image is misclassified without an attack; -1 if it did not break the image, or was not
            run on it because an earlier attack had broken it.
        images_attacked: Number of images it was run on, at each strength from the second on.
        forward_passes: Number of images sent through a network.
        backward_passes: Number of images whose gradient was computed.
        seconds: Time it took when it was computed.
        settings: Its settings, from ``Attack.describe``.
        alone: For an attack of an independent suite, the accuracy at the strongest strength if that
            strength alone is tried, as the papers' tables do: whatever weaker strengths broke. An
            image that is misclassified without an attack counts as broken.
    """

    suite: str
    name: str
    kind: Kind
    broken_at: Int[Tensor, " n"]
    images_attacked: tuple[int, ...]
    forward_passes: int
    backward_passes: int
    seconds: float
    settings: dict[str, Any]
    alone: float | None = None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The result of an evaluation, image by image.

    Args:
        epsilons: Strengths, ascending from 0.
        suites: Suites, in order.
        outcomes: Outcome of every attack of every suite, in order.
        clean: ``(n,)``, whether each image is classified correctly without an attack.
        rescored: Verification of the adversarial images.
        order: Order in which the strengths were attacked.
        adversarial: Row, strength and image ``(1, channel, height, width)`` of each adversarial
            image.
        single_draw: For a randomised model, the share of single draws that are right,
            ``(strengths, n)``, see ``single_draw_accuracy``.

    Example:
        >>> import torch
        >>> from equipoise.evaluation import Profile
        >>> from equipoise.evaluation.verification import Rescoring
        >>> profile = Profile(  # no attack, so every clean image survives
        ...     epsilons=(0.0, 0.1),
        ...     suites=(),
        ...     outcomes=(),
        ...     clean=torch.tensor([True, False]),
        ...     rescored=Rescoring(images=0, batch_size=86, boundary=0),
        ... )
        >>> profile.broken_at(), profile.accuracy()
        (tensor([-1,  0]), [0.5, 0.5])
    """

    epsilons: tuple[float, ...]
    suites: tuple[Suite, ...]
    outcomes: tuple[AttackOutcome, ...]
    clean: Tensor
    rescored: Rescoring
    order: Order = "ascending"
    adversarial: Sequence[tuple[int, float, Tensor]] = ()
    single_draw: Tensor | None = None

    def broken_at(self, suite: str | None = None) -> Int[Tensor, " n"]:
        """Return the index of the lowest strength at which each image was broken, or -1.

        Args:
            suite: Count this suite and those before it, or this suite alone if it is independent;
                ``None`` counts all attacks.
        """
        rows = torch.stack(
            [
                torch.where(self.clean, NEVER, 0),
                *(outcome.broken_at for outcome in self._outcomes_of(suite)),
            ]
        )
        never = torch.full_like(rows, len(self.epsilons))
        first = torch.where(rows == NEVER, never, rows).amin(dim=0)
        return torch.where(first == len(self.epsilons), NEVER, first)

    def broken_by(self, suite: str | None = None) -> list[str | None]:
        """Return the first attack, as ``suite/attack``, that broke each image at that strength.

        ``"clean"`` marks images that are misclassified without an attack.
        """
        first = self.broken_at(suite)
        names: list[str | None] = ["clean" if level == 0 else None for level in first.tolist()]
        for outcome in self._outcomes_of(suite):
            broken = (outcome.broken_at == first) & (first > 0)
            for row in broken.nonzero().flatten().tolist():
                names[row] = names[row] or f"{outcome.suite}/{outcome.name}"
        return names

    def correct(self, suite: str | None = None) -> Bool[Tensor, "strengths n"]:
        """Return whether each image is classified correctly at each strength.

        False at one strength implies False at all higher ones.
        """
        first = self.broken_at(suite)
        never = torch.full_like(first, len(self.epsilons))
        first = torch.where(first == NEVER, never, first)
        return first[None, :] > torch.arange(len(self.epsilons))[:, None]

    def accuracy(self, suite: str | None = None) -> list[float]:
        """Return the share of images classified correctly at each strength, in [0, 1]."""
        return [float(row.double().mean()) for row in self.correct(suite)]

    def interval(self, suite: str | None = None) -> list[tuple[float, float]]:
        """Return the 95 % Wilson interval of each accuracy."""
        return [wilson_interval(int(row.sum()), len(row)) for row in self.correct(suite)]

    def _outcomes_of(self, suite: str | None) -> list[AttackOutcome]:
        if suite is None:
            return list(self.outcomes)
        names = [other.name for other in self.suites]
        index = names.index(suite)
        counted = {suite} if self.suites[index].independent else set(names[: index + 1])
        counted -= {
            other.name for other in self.suites if other.independent and other.name != suite
        }
        return [outcome for outcome in self.outcomes if outcome.suite in counted]
