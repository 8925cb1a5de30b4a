"""The robustness profile: accuracy at ascending strengths, each image's worst case, in float32."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from equipoise.attacks import Search
from equipoise.data import Split
from equipoise.epsilon import format_epsilon
from equipoise.evaluation.suites import Suite
from equipoise.goals import Predict, Watched
from equipoise.losses import margin
from equipoise.models import attack_mode
from equipoise.runs import derive_seed, wilson_interval
from equipoise.threat import Threat

NEVER = -1


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What an evaluation found, per image.

    Args:
        epsilons: Strengths, ascending from 0.
        suites: Names of the suites, in order.
        broken_at: ``(suites, n)``: index of the lowest strength at which the suite broke the image,
            or -1. The first suite saw every image; a later one only what the earlier ones left.
        broken_by: The attack that did it, per suite and image, or ``None``; ``"clean"`` where the
            image was wrong without an attack.
        images_left: How many images each suite and attack was run on, summed over strengths.
    """

    epsilons: tuple[float, ...]
    suites: tuple[str, ...]
    broken_at: Int[Tensor, "suites n"]
    broken_by: tuple[tuple[str | None, ...], ...]
    images_left: dict[str, int]

    def correct(self, through: str | None = None) -> Tensor:
        """Whether each image is still classified rightly at each strength.

        Args:
            through: Count this suite and those before it; ``None`` for all.

        Returns:
            Bool ``(strengths, n)``; False stays False at higher strengths.
        """
        last = len(self.suites) if through is None else self.suites.index(through) + 1
        rows = self.broken_at[:last]
        never = torch.full_like(rows, len(self.epsilons))
        first = torch.where(rows == NEVER, never, rows).amin(dim=0)
        return first[None, :] > torch.arange(len(self.epsilons))[:, None]

    def accuracy(self, through: str | None = None) -> list[float]:
        """Share of images right at each strength, in [0, 1]."""
        return [float(row.double().mean()) for row in self.correct(through)]

    def interval(self, through: str | None = None) -> list[tuple[float, float]]:
        """95 % Wilson interval of each accuracy."""
        return [wilson_interval(int(row.sum()), len(row)) for row in self.correct(through)]


def profile(
    model: nn.Module,
    split: Split,
    *,
    threat: Callable[[float], Threat],
    epsilons: Sequence[float],
    suites: Sequence[Suite],
    seed: int,
    batch_size: int = 256,
    report: Callable[[str, float], None] = lambda text, share: None,
) -> Profile:
    """Attack a model at ascending strengths and keep every image's worst case.

    An image that is broken at a strength stays broken above it: the curve is monotone by
    construction, and only survivors are attacked on.

    Args:
        model: Images in [0, 1] to logits. Left as it was found.
        split: Test images, on the model's device.
        threat: Makes the threat of a strength: ``Linf`` or ``L2``.
        epsilons: Strengths; sorted, and 0 is added.
        suites: What to try, in order.
        seed: Of all random starts.
        batch_size: Images attacked at once.
        report: Called with what is being done and the share done.

    Returns:
        The profile.

    Raises:
        ValueError: If the model is in train mode, its answer is not one row of logits an image, no
            suite is given, or a strength is out of the threat's range.

    Source:
        AFA Tables 1-2 and AFS Fig. 4(a) print such curves, from one attack.
    """
    if model.training:
        raise ValueError(
            "the model is in train mode, where its answer depends on the batch; "
            "call model.eval() first."
        )
    if not suites:
        raise ValueError("there is nothing to try: none of the suites applies to this model.")
    strengths = tuple(sorted({0.0, *map(float, epsilons)}))
    threat(strengths[-1])  # refuses what is out of range before any work is done
    with attack_mode(model), torch.autocast(split.images.device.type, enabled=False):
        wrong = _wrong(model, split, batch_size)
        state = _State(strengths, wrong)
        total = sum(len(suite.attacks) for suite in suites) * max(1, len(strengths) - 1)
        done = 0
        for number, suite in enumerate(suites):
            state.begin(suite.name)
            for level, epsilon in enumerate(strengths[1:], start=1):
                for attack in suite.attacks:
                    report(f"{suite.name} {attack.name} {format_epsilon(epsilon)}", done / total)
                    done += 1
                    rows = state.left(level, alone=number == 0)
                    state.count(f"{suite.name}/{attack.name}", len(rows))
                    generator = torch.Generator(split.images.device)
                    generator.manual_seed(derive_seed(seed, suite.name, attack.name, f"{epsilon}"))
                    for part in rows.split(batch_size) if len(rows) else ():
                        images, labels = split.batch(part)
                        images = images.contiguous(memory_format=torch.channels_last)
                        found = attack.run(model, images, labels, threat(epsilon), generator)
                        state.note(part[found.broken.to(part.device)], level, attack.name)
    return state.profile()


def robust_accuracy(
    predict: Predict,
    split: Split,
    *,
    threat: Threat,
    search: Search,
    generator: torch.Generator,
    batch_size: int = 256,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> float:
    """Accuracy under one margin-climbing search: the quick look that validation takes.

    Args:
        predict: Images to logits; its networks in eval mode.
        split: Images on the network's device.
        threat: Where to search; with epsilon 0 the clean accuracy.
        search: How to search.
        generator: The only source of randomness.
        batch_size: Images at once.
        autocast: Precision of the search; what it finds is scored in float32.

    Returns:
        Share of images still right, in [0, 1].
    """

    def searched(images: Tensor) -> Tensor:
        with autocast():
            return predict(images)

    right = 0
    for rows in torch.arange(len(split), device=split.images.device).split(batch_size):
        images, labels = split.batch(rows)
        images = images.contiguous(memory_format=torch.channels_last)
        watched = Watched(predict, labels, margin)
        with torch.no_grad():
            watched.note(images, predict(images))
        if not isinstance(threat.epsilon, float) or threat.epsilon > 0:
            found = search(lambda x: margin(searched(x), labels), images, threat, generator)  # noqa: B023
            with torch.no_grad():
                watched.note(found, predict(found))
        right += int((~watched.broken).sum())
    return right / len(split)


class _State:
    def __init__(self, strengths: tuple[float, ...], wrong: Tensor) -> None:
        self.strengths = strengths
        self.wrong = wrong
        self.names: list[str] = []
        self.broken_at: list[Tensor] = []
        self.broken_by: list[list[str | None]] = []
        self.images_left: dict[str, int] = {}

    def begin(self, name: str) -> None:
        self.names.append(name)
        self.broken_at.append(torch.where(self.wrong, 0, NEVER))
        self.broken_by.append(["clean" if bad else None for bad in self.wrong.tolist()])

    def left(self, level: int, alone: bool) -> Tensor:
        """Images that are right so far at this level: by this suite alone, or by all so far."""
        rows = self.broken_at[-1:] if alone else self.broken_at
        survives = torch.stack([(at == NEVER) | (at > level) for at in rows]).all(dim=0)
        return survives.nonzero().squeeze(1)

    def note(self, rows: Tensor, level: int, attack: str) -> None:
        for row in rows.tolist():
            self.broken_at[-1][row] = level
            self.broken_by[-1][row] = attack

    def count(self, name: str, images: int) -> None:
        self.images_left[name] = self.images_left.get(name, 0) + images

    def profile(self) -> Profile:
        return Profile(
            epsilons=self.strengths,
            suites=tuple(self.names),
            broken_at=torch.stack(self.broken_at).cpu(),
            broken_by=tuple(tuple(row) for row in self.broken_by),
            images_left=self.images_left,
        )


@torch.no_grad()
def _wrong(model: Predict, split: Split, batch_size: int) -> Tensor:
    parts = []
    for rows in torch.arange(len(split), device=split.images.device).split(batch_size):
        images, labels = split.batch(rows)
        logits = model(images.contiguous(memory_format=torch.channels_last))
        if not isinstance(logits, Tensor) or logits.shape != (len(images), split.classes):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"the model must return logits of shape ({len(images)}, {split.classes}), got "
                f"{found}; the data has {split.classes} classes."
            )
        parts.append(logits.argmax(dim=1) != labels)
    return torch.cat(parts)
