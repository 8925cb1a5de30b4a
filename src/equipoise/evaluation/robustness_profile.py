"""The robustness profile: accuracy at ascending strengths, each image's worst case, in float32."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.attacks.threat import Threat
from equipoise.data import Split
from equipoise.evaluation.asked_model import AskedModel
from equipoise.evaluation.attack import AttackResult
from equipoise.evaluation.cache import BROKEN, UNKNOWN, EvaluationCache
from equipoise.evaluation.fresh_copy import FreshCopies
from equipoise.evaluation.profile import NEVER, AttackOutcome, Order, Profile
from equipoise.evaluation.single_draw import single_draw_accuracy
from equipoise.evaluation.suite import Suite
from equipoise.evaluation.verification import misclassified_images, rescore
from equipoise.evaluation.work_unit import EvaluationContext, Precision, WorkUnit
from equipoise.evaluation.workers import Workers
from equipoise.models.attack_mode.context import attack_mode
from equipoise.records.epsilon import format_epsilon
from equipoise.runtime.errors import InvalidInput
from equipoise.runtime.malloc import keep_freed_memory


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How ``measure_profile`` searches; the attacks themselves are its suites.

    Args:
        batch_size: Number of images attacked at once.
        cache: Results that are known already; new results are added. ``None`` starts an empty one.
        precision: Precision of the searches; what they find is confirmed in float32.
        workers: Number of processes that share the batches. It does not change the result.
        order: ``"ascending"`` attacks the survivors of a strength at the next one. ``"descending"``
            starts at the strongest and attacks, at each weaker one, only the images that were
            broken above it. That saves most of the time on a robust model, and misses an image that
            only a weaker attack would break.
        copies: Copies of the model in the state in which it was given, see ``FreshCopies``; they
            are asked again what the attacked model answers.
    """

    batch_size: int = 256
    cache: EvaluationCache | None = None
    precision: Precision = "32-true"
    workers: int = 1
    order: Order = "ascending"
    copies: FreshCopies | None = None


def measure_profile(
    model: nn.Module,
    split: Split,
    *,
    threat: Callable[[float], Threat],
    epsilons: Sequence[float],
    suites: Sequence[Suite],
    seed: int,
    options: SearchOptions = SearchOptions(),
    report: Callable[[str, float], None] = lambda text, share: None,
) -> Profile:
    """Attack a model at several strengths and keep each image's worst case.

    An image that is broken at a strength counts as broken at all higher ones, so the curve is
    monotone by construction and only survivors are attacked further. An independent suite ignores
    what other suites, or other attacks of its own, have broken; at the strongest strength it also
    attacks what weaker ones broke, for the outcome's ``alone``.

    Args:
        model: Images in [0, 1] to logits. It is left unchanged.
        split: Test images, on the model's device.
        threat: Builds the threat of a strength: ``Linf`` or ``L2``.
        epsilons: Strengths in pixel units; they are sorted, and 0 is added.
        suites: Attack suites, in order.
        seed: Random seed of all attacks.
        options: Batch size, cache, precision, processes and order.
        report: Called with the current task and the share done.

    Returns:
        The profile.

    Raises:
        ValueError: If the model is in train mode or does not return one row of finite logits per
            clean image, no suite is given, or a strength is out of range. A NaN under attack is not
            an error; it counts as misclassified.
        EvaluationError: If adversarial images are not misclassified a second time.
        StatefulModelError: If there are copies, and they answer differently.

    Source:
        AFA Tables 1-2 and AFS Fig. 4(a) show such curves, from one attack.

    Example:
        >>> import torch
        >>> from equipoise.attacks.threat import Linf
        >>> from equipoise.data import Split
        >>> from equipoise.evaluation import measure_profile, suites_for
        >>> model = torch.nn.Flatten().eval()  # the brighter of two pixels is the class
        >>> pixels = torch.tensor([[255, 0], [0, 100], [0, 40], [30, 20]], dtype=torch.uint8)
        >>> labels = torch.tensor([0, 1, 1, 1])
        >>> split = Split(images=pixels.reshape(4, 1, 1, 2), labels=labels, classes=2)
        >>> suites = suites_for(model, ["quick"], classes=2, steps=5)
        >>> profile = measure_profile(
        ...     model, split, threat=Linf, epsilons=(0.1, 0.3), suites=suites, seed=0
        ... )
        >>> profile.accuracy()
        [0.75, 0.5, 0.25]
        >>> profile.broken_by()
        [None, 'quick/pgd-margin', 'quick/pgd-margin', 'clean']
    """
    _check_types(split, threat, epsilons, suites)
    if model.training:
        raise InvalidInput(
            "the model is in train mode, where its output depends on the batch; "
            "call model.eval() first."
        )
    if not suites:
        raise InvalidInput(
            "suites must hold at least one suite, got none: no named suite applies to this model. "
            "Add quick or standard."
        )
    keep_freed_memory()
    strengths = tuple(sorted({0.0, *map(float, epsilons)}))
    threat(strengths[-1])  # refuses an epsilon out of range before any work is done
    with _as_attacked(model, split):
        clean = ~misclassified_images(model, split, options.batch_size)
    context = EvaluationContext(
        model=model,
        split=split,
        threat=threat,
        suites=suites,
        seed=seed,
        precision=options.precision,
        copies=options.copies,
    )
    with contextlib.ExitStack() as stack:
        parallel = options.workers > 1
        pool = stack.enter_context(Workers(context, options.workers)) if parallel else None
        run = _Run(context, strengths, options, clean, pool)
        with torch.inference_mode(False), torch.enable_grad():
            run.attack_all(report)
    single_draw = None
    with _as_attacked(model, split):
        found = run.adversarial_images()
        rescored = rescore(model, split, threat, found, other_than=options.batch_size)
        if isinstance(model, AskedModel) and model.draws:
            single_draw = single_draw_accuracy(
                model, split, threat, strengths, found, seed=seed, batch_size=options.batch_size
            )
    return Profile(
        epsilons=strengths,
        order=options.order,
        suites=tuple(suites),
        outcomes=run.outcomes(),
        clean=clean.cpu(),
        rescored=rescored,
        adversarial=found,
        single_draw=single_draw,
    )


@contextlib.contextmanager
def _as_attacked(model: nn.Module, split: Split) -> Iterator[None]:
    """Attack mode in float32, whatever grad mode the caller is in."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        attack_mode(model),
        torch.autocast(split.device.type, enabled=False),
    ):
        yield


def _check_types(split: Any, threat: Any, epsilons: Any, suites: Any) -> None:
    """Refuse arguments of another kind with the remedy."""
    if not isinstance(split, Split):
        raise InvalidInput(
            f"split must be a Split, got {type(split).__name__}. Make one of uint8 images "
            "(n, channel, height, width): Split(images=images, labels=labels, classes=10)."
        )
    if isinstance(threat, Threat) or not callable(threat):
        raise InvalidInput(
            f"threat must be a function of the strength such as Linf, got {threat!r}. Pass Linf "
            "itself, and the strengths as epsilons=(0.1,)."
        )
    if isinstance(epsilons, (str, int, float)):
        raise InvalidInput(
            f"epsilons must be a sequence of strengths, got {epsilons!r}. Write (0.1,) for one."
        )
    if not all(isinstance(suite, Suite) for suite in suites):
        raise InvalidInput(
            f"suites must hold Suite objects, got {suites!r}. Build them by name with "
            'suites_for(model, ["quick"], classes=10).'
        )


@dataclass
class _AttackState:
    """What one attack has done so far."""

    broken_at: Tensor
    images_attacked: dict[int, int] = field(default_factory=dict)  # by level
    alone: float | None = None  # accuracy at the strongest strength alone
    keys: list[tuple[str, float]] = field(default_factory=list)  # cache keys and strengths


class _Run:
    """One evaluation in progress. A level is an index into the strengths."""

    def __init__(
        self,
        context: EvaluationContext,
        strengths: tuple[float, ...],
        options: SearchOptions,
        clean: Tensor,
        pool: Workers | None,
    ) -> None:
        levels = range(1, len(strengths))
        self.descending = options.order == "descending"
        self.levels = levels[::-1] if self.descending else levels
        self.context, self.strengths, self.pool = context, strengths, pool
        self.batch_size = options.batch_size
        self.cache = EvaluationCache(len(clean)) if options.cache is None else options.cache
        broken_at = torch.where(clean.cpu(), NEVER, 0)
        self.worst = broken_at.clone()
        self.states = {
            (suite, attack): _AttackState(broken_at.clone())
            for suite in range(len(context.suites))
            for attack in range(len(context.suites[suite].attacks))
        }

    def attack_all(self, report: Callable[[str, float], None]) -> None:
        total, done = len(self.states) * max(1, len(self.levels)), 0
        for suite_index, suite in enumerate(self.context.suites):
            for level in self.levels:
                for attack_index, attack in enumerate(suite.attacks):
                    text = f"{suite.name} {attack.name} {format_epsilon(self.strengths[level])}"
                    for share in self._attack(suite_index, attack_index, level):
                        report(text, (done + share) / total)
                    done += 1

    def _attack(self, suite: int, attack: int, level: int) -> Iterator[float]:
        """Run one attack at one level, and yield the share done."""
        epsilon, state = self.strengths[level], self.states[suite, attack]
        independent = self.context.suites[suite].independent
        rows = self._rows_to_attack(state.broken_at if independent else self.worst, level)
        key = self.context.key(suite, attack, epsilon)
        yield 0.0
        yield from self._search(suite, attack, epsilon, rows)
        broken = rows[self.cache.outcome(key, rows) == BROKEN]
        earlier = (state.broken_at > 0).nonzero().squeeze(1)
        state.broken_at[broken] = level
        if not independent:
            self.worst[broken] = level
        elif level == max(self.levels):
            # After the survivors, so that their batches do not depend on what weaker ones broke.
            for _ in self._search(suite, attack, epsilon, earlier):
                yield 1.0
            reached = torch.cat([rows, earlier])
            right = int((self.cache.outcome(key, reached) != BROKEN).sum())
            state.alone = right / len(state.broken_at)
            rows = reached
        state.images_attacked[level] = len(rows)
        state.keys.append((key, epsilon))

    def _search(self, suite: int, attack: int, epsilon: float, rows: Tensor) -> Iterator[float]:
        """Run an attack on those of the rows whose result is unknown, and yield the share done."""
        key = self.context.key(suite, attack, epsilon)
        unknown = rows[self.cache.outcome(key, rows) == UNKNOWN]
        # The known rows are whole batches of this split, or come from an evaluation at other
        # strengths; so a continued evaluation splits the rest into the same batches as before.
        batches = unknown.split(self.batch_size) if len(unknown) else ()
        units = [
            WorkUnit(suite=suite, attack=attack, epsilon=epsilon, rows=batch) for batch in batches
        ]
        for number, (unit, result, seconds) in enumerate(self._results(units)):
            self.cache.put(key, unit.rows, result, seconds)
            yield (number + 1) / len(units)

    def _rows_to_attack(self, broken_at: Tensor, level: int) -> Tensor:
        attacked = broken_at == level + 1 if self.descending else broken_at > level
        if not self.descending or level == self.levels[0]:
            attacked |= broken_at == NEVER
        return attacked.nonzero().squeeze(1)

    def _results(self, units: Sequence[WorkUnit]) -> Iterator[tuple[WorkUnit, AttackResult, float]]:
        if self.pool is not None:
            yield from self.pool.run(units)
        else:
            for unit in units:
                yield unit, *self.context.run(unit)

    def outcomes(self) -> tuple[AttackOutcome, ...]:
        return tuple(self._outcome(*indices) for indices in self.states)

    def _outcome(self, suite_index: int, attack_index: int) -> AttackOutcome:
        suite = self.context.suites[suite_index]
        attack = suite.attacks[attack_index]
        state = self.states[suite_index, attack_index]
        costs = [self.cache.cost(key) for key, _ in state.keys]
        return AttackOutcome(
            suite=suite.name,
            name=attack.name,
            kind=attack.kind,
            broken_at=state.broken_at,
            images_attacked=tuple(count for _, count in sorted(state.images_attacked.items())),
            forward_passes=sum(forward for forward, _, _ in costs),
            backward_passes=sum(backward for _, backward, _ in costs),
            seconds=round(sum(seconds for _, _, seconds in costs), 2),
            settings=attack.describe(),
            alone=state.alone,
        )

    def adversarial_images(self) -> list[tuple[int, float, Tensor]]:
        """Return row, strength and image of every adversarial image."""
        keys = {key for state in self.states.values() for key in state.keys}
        return [
            (row, epsilon, image)
            for key, epsilon in sorted(keys)
            for row, image in self.cache.adversarial_images(key)
        ]
