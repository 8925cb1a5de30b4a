"""The robustness profile: accuracy at ascending strengths, each image's worst case, in float32."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from equipoise.attacks import Search
from equipoise.attacks.goals import SuccessTracker, misclassified
from equipoise.attacks.losses import margin
from equipoise.attacks.threat import Threat
from equipoise.data import Split
from equipoise.distributed.shared_generator import share as shard
from equipoise.evaluation.attack import AttackResult, Kind
from equipoise.evaluation.cache import BROKEN, UNKNOWN, Store
from equipoise.evaluation.suites import Suite
from equipoise.evaluation.verification import Rescoring, rescore
from equipoise.evaluation.work_unit import EvaluationContext, Precision
from equipoise.evaluation.workers import Workers
from equipoise.models.attack_mode.context import attack_mode
from equipoise.records.epsilon import format_epsilon
from equipoise.records.statistics import wilson_interval
from equipoise.runtime.malloc import keep_freed_memory
from equipoise.types import Predict

NEVER = -1
Order = Literal["ascending", "descending"]


@dataclass(frozen=True, kw_only=True)
class AttackOutcome:
    """What one attack did.

    Args:
        suite: The suite it ran in.
        name: Its name.
        kind: What the attacker sees.
        broken_at: ``(n,)``: index of the lowest strength at which it broke the image, 0 where the
            image is wrong without an attack, -1 where it never did, or was never tried because an
            earlier attack had done it.
        images_attacked: How many images it was run on, at each strength from the second on.
        forward_passes: Images sent through a network.
        backward_passes: Images whose gradient was taken.
        seconds: Time it took when it was computed.
        settings: What it says of itself.
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


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What an evaluation found, per image.

    Args:
        epsilons: Strengths, ascending from 0.
        suites: Suites, in order.
        tried: Every attack of every suite, in order.
        clean: ``(n,)``, whether each image is right without an attack.
        rescored: The second pass over everything found.
        order: In which the strengths were tried.
    """

    epsilons: tuple[float, ...]
    suites: tuple[Suite, ...]
    tried: tuple[AttackOutcome, ...]
    clean: Tensor
    rescored: Rescoring
    order: Order = "ascending"

    def broken_at(self, suite: str | None = None) -> Int[Tensor, " n"]:
        """Index of the lowest strength at which each image was broken, or -1.

        Args:
            suite: By this suite and those before it, or by this suite alone if it is independent;
                ``None`` for everything tried.
        """
        rows = torch.stack(
            [torch.where(self.clean, NEVER, 0), *(t.broken_at for t in self._of(suite))]
        )
        never = torch.full_like(rows, len(self.epsilons))
        first = torch.where(rows == NEVER, never, rows).amin(dim=0)
        return torch.where(first == len(self.epsilons), NEVER, first)

    def broken_by(self, suite: str | None = None) -> list[str | None]:
        """The first attack, as ``suite/attack``, that broke each image at that strength;
        ``"clean"`` where none was needed."""
        first = self.broken_at(suite)
        names: list[str | None] = ["clean" if at == 0 else None for at in first.tolist()]
        for tried in self._of(suite):
            for row in ((tried.broken_at == first) & (first > 0)).nonzero().flatten().tolist():
                names[row] = names[row] or f"{tried.suite}/{tried.name}"
        return names

    def correct(self, suite: str | None = None) -> Tensor:
        """Whether each image is still classified rightly at each strength.

        Returns:
            Bool ``(strengths, n)``; False stays False at higher strengths.
        """
        first = self.broken_at(suite)
        never = torch.full_like(first, len(self.epsilons))
        first = torch.where(first == NEVER, never, first)
        return first[None, :] > torch.arange(len(self.epsilons))[:, None]

    def accuracy(self, suite: str | None = None) -> list[float]:
        """Share of images right at each strength, in [0, 1]."""
        return [float(row.double().mean()) for row in self.correct(suite)]

    def interval(self, suite: str | None = None) -> list[tuple[float, float]]:
        """95 % Wilson interval of each accuracy."""
        return [wilson_interval(int(row.sum()), len(row)) for row in self.correct(suite)]

    def _of(self, suite: str | None) -> list[AttackOutcome]:
        if suite is None:
            return list(self.tried)
        names = [found.name for found in self.suites]
        here = names.index(suite)
        counted = {suite} if self.suites[here].independent else set(names[: here + 1])
        counted -= {s.name for s in self.suites if s.independent and s.name != suite}
        return [tried for tried in self.tried if tried.suite in counted]


def profile(
    model: nn.Module,
    split: Split,
    *,
    threat: Callable[[float], Threat],
    epsilons: Sequence[float],
    suites: Sequence[Suite],
    seed: int,
    batch_size: int = 256,
    store: Store | None = None,
    precision: Precision = "32-true",
    workers: int = 1,
    order: Order = "ascending",
    report: Callable[[str, float], None] = lambda text, share: None,
) -> Profile:
    """Attack a model at ascending strengths and keep every image's worst case.

    An image that is broken at a strength stays broken above it: the curve is monotone by
    construction, and only survivors are attacked on. An independent suite does not look at what
    other suites, or its own other attacks, have broken.

    Args:
        model: Images in [0, 1] to logits. Left as it was found.
        split: Test images, on the model's device.
        threat: Makes the threat of a strength: ``Linf`` or ``L2``.
        epsilons: Strengths; sorted, and 0 is added.
        suites: What to try, in order.
        seed: Of all random starts.
        batch_size: Images attacked at once.
        store: What is known already; gets everything that is found.
        precision: Of the searches; what they find is always judged in float32.
        workers: Processes among which batches are shared out; the outcome does not depend on it.
        order: ``"ascending"`` attacks survivors on at the next strength. ``"descending"`` begins
            at the strongest and goes down with what was broken: an image that nothing breaks at a
            strength counts as right at all below, where it is not attacked. That saves most of the
            time on a robust model, and misses what only an attack of less strength would break.
        report: Called with what is being done and the share done.

    Returns:
        The profile.

    Raises:
        ValueError: If the model is in train mode, its answer is not one row of finite logits an
            image, no suite is given, or a strength is out of the threat's range. Only clean images
            have to have finite logits; NaN under an attack counts as misclassified.
        EvaluationError: If images that were found do not fool the model a second time.

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
    keep_freed_memory()
    strengths = tuple(sorted({0.0, *map(float, epsilons)}))
    threat(strengths[-1])  # refuses what is out of range before any work is done
    store = store if store is not None else Store(len(split))
    with attack_mode(model), torch.autocast(split.device.type, enabled=False):
        clean = ~_wrong(model, split, batch_size)
    bench = EvaluationContext(
        model=model, split=split, threat=threat, suites=suites, seed=seed, precision=precision
    )
    total = sum(len(suite.attacks) for suite in suites) * max(1, len(strengths) - 1)
    done = 0
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(Workers(bench, workers)) if workers > 1 else None
        run = _Run(bench, strengths, batch_size, store, clean, pool, order)
        for place, suite in enumerate(suites):
            for level in run.levels:
                for number, attack in enumerate(suite.attacks):
                    text = f"{suite.name} {attack.name} {format_epsilon(strengths[level])}"

                    def log(share: float, text: str = text, done: int = done) -> None:
                        report(text, (done + share) / total)

                    run.attack(place, number, level, log)
                    done += 1
    with attack_mode(model), torch.autocast(split.device.type, enabled=False):
        rescored = rescore(model, split, threat, run.found(), other_than=batch_size)
    return Profile(
        epsilons=strengths,
        order=order,
        suites=tuple(suites),
        tried=run.tried(),
        clean=clean.cpu(),
        rescored=rescored,
    )


class _Run:
    """One evaluation under way."""

    def __init__(
        self,
        bench: EvaluationContext,
        strengths: tuple[float, ...],
        batch_size: int,
        store: Store,
        clean: Tensor,
        pool: Workers | None,
        order: Order,
    ) -> None:
        levels = range(1, len(strengths))
        self.down = order == "descending"
        self.levels = levels[::-1] if self.down else levels
        self.bench, self.strengths, self.batch_size = bench, strengths, batch_size
        self.store, self.pool = store, pool
        self.first = torch.where(clean.cpu(), NEVER, 0)
        self.worst = self.first.clone()
        self.by_attack: dict[tuple[int, int], Tensor] = {}
        self.attacked: dict[tuple[int, int], dict[int, int]] = {}
        self.units: dict[tuple[int, int], list[tuple[str, float]]] = {}

    def attack(self, suite: int, attack: int, level: int, report: Callable[[float], None]) -> None:
        epsilon, place = self.strengths[level], (suite, attack)
        independent = self.bench.suites[suite].independent
        own = self.by_attack.setdefault(place, self.first.clone())
        before = own if independent else self.worst
        wanted = before == level + 1 if self.down else before > level
        if not self.down or level == self.levels[0]:
            wanted |= before == NEVER
        rows = wanted.nonzero().squeeze(1)
        key = self.bench.key(suite, attack, epsilon)
        report(0.0)
        unknown = rows[self.store.outcome(key, rows) == UNKNOWN]
        # What is known of these rows is whole batches of this very split, or of an evaluation at
        # other strengths; so an evaluation that goes on splits what is left as it did before.
        parts = unknown.split(self.batch_size) if len(unknown) else ()
        for number, (part, found, seconds) in enumerate(self._found(suite, attack, epsilon, parts)):
            self.store.put(key, part, found, seconds)
            report((number + 1) / len(parts))
        broken = rows[self.store.outcome(key, rows) == BROKEN]
        own[broken] = level
        if not independent:
            self.worst[broken] = level
        self.attacked.setdefault(place, {})[level] = len(rows)
        self.units.setdefault(place, []).append((key, epsilon))

    def _found(
        self, suite: int, attack: int, epsilon: float, parts: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, AttackResult, float]]:
        if self.pool is None:
            for part in parts:
                yield part, *self.bench.run(suite, attack, epsilon, part)
        else:
            units = [(suite, attack, epsilon, part) for part in parts]
            for unit, found, seconds in self.pool.run(units):
                yield unit[3], found, seconds

    def tried(self) -> tuple[AttackOutcome, ...]:
        found = []
        for place, suite in enumerate(self.bench.suites):
            for number, attack in enumerate(suite.attacks):
                here = (place, number)
                costs = [self.store.cost(key) for key, _ in self.units.get(here, [])]
                found.append(
                    AttackOutcome(
                        suite=suite.name,
                        name=attack.name,
                        kind=attack.kind,
                        broken_at=self.by_attack.get(here, self.first),
                        images_attacked=tuple(
                            n for _, n in sorted(self.attacked.get(here, {}).items())
                        ),
                        forward_passes=sum(cost[0] for cost in costs),
                        backward_passes=sum(cost[1] for cost in costs),
                        seconds=round(sum(cost[2] for cost in costs), 2),
                        settings=attack.describe(),
                    )
                )
        return tuple(found)

    def found(self) -> list[tuple[int, float, Tensor]]:
        """Every adversarial image: its place, its strength, the image."""
        units = {unit for units in self.units.values() for unit in units}
        return [
            (row, epsilon, image)
            for key, epsilon in sorted(units)
            for row, image in self.store.found(key)
        ]


def robust_accuracy(
    predict: Predict,
    split: Split,
    *,
    threat: Threat,
    search: Search,
    generator: torch.Generator,
    batch_size: int = 256,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    total: Callable[[Tensor], Tensor] = lambda right: right,
) -> float:
    """Accuracy under one margin-climbing search: the quick look that validation takes.

    Args:
        predict: Images to logits; its networks in eval mode.
        split: Images on the network's device.
        threat: Where to search; with epsilon 0 the clean accuracy.
        search: How to search.
        generator: The only source of randomness. Processes with a shared one share the images out.
        batch_size: Images at once.
        autocast: Precision of the search; what it finds is scored in float32.
        total: Adds up what such processes have counted.

    Returns:
        Share of images still right, in [0, 1].
    """

    def searched(images: Tensor) -> Tensor:
        with autocast():
            return predict(images)

    right = torch.zeros((), dtype=torch.long, device=split.device)
    for batch in torch.arange(len(split), device=split.device).split(batch_size):
        images, labels = split.batch(shard(batch, generator))
        images = images.contiguous(memory_format=torch.channels_last)
        tracker = SuccessTracker(predict, labels, margin)
        with torch.no_grad():
            tracker.record(images, predict(images))
        if not isinstance(threat.epsilon, float) or threat.epsilon > 0:
            # A goal of its own, to which nothing is broken yet: processes that share the images
            # must draw the same starts. What it breaks it no longer searches.
            goal = SuccessTracker(searched, labels, margin, confirm=predict)
            found = search(goal, images, threat, generator)
            with torch.no_grad():
                tracker.record(found, predict(found))
        right += (~tracker.broken).sum()
    return int(total(right)) / len(split)


@torch.no_grad()
def _wrong(model: Predict, split: Split, batch_size: int) -> Tensor:
    parts, unusable = [], 0
    for rows in torch.arange(len(split), device=split.device).split(batch_size):
        images, labels = split.batch(rows)
        logits = model(images.contiguous(memory_format=torch.channels_last))
        if not isinstance(logits, Tensor) or logits.shape != (len(images), split.classes):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"the model must return logits of shape ({len(images)}, {split.classes}), got "
                f"{found}; the data has {split.classes} classes."
            )
        unusable += int((~logits.isfinite()).any(dim=1).sum())
        parts.append(misclassified(logits, labels))
    if unusable:
        raise ValueError(
            f"the model answers NaN or infinity to {unusable} of {len(split)} clean images, which "
            "is neither right nor wrong; find where it arises (a logarithm or a division by 0, "
            "weights that diverged, a range that float16 does not have)."
        )
    return torch.cat(parts)
