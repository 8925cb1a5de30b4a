"""What self-checks are made of: findings, and attacks that run at most once and are shared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from math import isfinite, sqrt
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from equipoise.attacks import PGD, Search, losses
from equipoise.attacks.active_batch import value_and_gradient
from equipoise.attacks.goals import SuccessTracker, cross_entropy
from equipoise.attacks.threat import L2, Linf, Threat, select_rows
from equipoise.data import Split
from equipoise.evaluation.asked_model import draws_of, fold_of, misclassifies
from equipoise.evaluation.attack import Kind
from equipoise.evaluation.robustness_profile import NEVER, AttackOutcome
from equipoise.records.statistics import wilson_interval
from equipoise.runtime.errors import InvalidInput
from equipoise.runtime.seeds import derive_seed
from equipoise.types import Images, Labels, Logits, PerImage

Mask = Bool[Tensor, " batch"]
Verdict = Literal["pass", "warn", "fail"]

MODE_DEPENDENT_MODULES = (
    nn.modules.batchnorm._NormBase,  # batch norms and instance norms
    nn.modules.dropout._DropoutNd,
    nn.RReLU,
    nn.MultiheadAttention,
    nn.RNNBase,
)
NOISE_DRAWS = 25
ONE_STEP = PGD(steps=1, relative_step=1.0, random_start=False, keep="best")
MANY_STEPS = PGD(steps=20, relative_step=0.25, keep="best")
TWO_RESTARTS = PGD(steps=20, relative_step=0.25, restarts=2, keep="best")
LONG = PGD(steps=100, relative_step=0.1, restarts=2, keep="best")
UNLIMITED = PGD(steps=50, relative_step=0.25, keep="best")
UNLIMITED_FROM_CLEAN = PGD(steps=50, relative_step=0.25, random_start=False, keep="best")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check measured.

    Args:
        name: Name of the check, such as ``"randomised"``.
        verdict: ``"fail"``: the score is meaningless or too high; ``"warn"``: investigate before
            you trust it.
        found: One sentence with the numbers.
        meaning: One sentence: what it means for the score, and what to do.
        numbers: The same numbers for a record; shares are in [0, 1].
    """

    name: str
    verdict: Verdict
    found: str
    meaning: str
    numbers: dict[str, float]

    @classmethod
    def of(
        cls,
        name: str,
        verdict: Verdict,
        found: str,
        numbers: dict[str, float],
        *,
        good: str,
        bad: str,
    ) -> "Finding":
        """Make a finding whose meaning is ``good`` if it passed, else ``bad``.

        Numbers that are not finite are left out, because JSON has no NaN.
        """
        numbers = {key: value for key, value in numbers.items() if isfinite(value)}
        meaning = good if verdict == "pass" else bad
        return cls(name=name, verdict=verdict, found=found, meaning=meaning, numbers=numbers)


def grade(hits: int, count: int, *, warn: float, fail: float) -> Verdict:
    """Grade a share of images. A single image never counts, because it may be chance.

    Args:
        hits: Number of images that indicate a problem.
        count: Number of images looked at.
        warn: Share, in [0, 1], to exceed by more than sampling noise: the lower end of the Wilson
            interval of one standard error is compared with it.
        fail: The same for a failure.

    Returns:
        The verdict.

    Example:
        >>> from equipoise.evaluation.self_check_context import grade
        >>> [grade(hits, 128, warn=0.02, fail=0.08) for hits in (1, 3, 6, 20)]
        ['pass', 'pass', 'warn', 'fail']
    """
    least = wilson_interval(hits, count, z=1.0)[0] if hits > 1 else 0.0
    return "fail" if least > fail else "warn" if least > warn else "pass"


def scale_free_cross_entropy(logits: Logits, labels: Labels) -> PerImage:
    """Return the cross-entropy of logits divided by their standard deviation over the classes.

    The deviation is held constant in the gradient, so that only the scale of the logits is removed:
    with large logits, softmax saturates in float32 and the gradient of cross-entropy vanishes.

    Returns:
        ``(batch,)``.

    Source:
        Ours, after the scale invariance of the DLR loss (Croce and Hein 2020, Sec. 4).

    Example:
        >>> import torch
        >>> from equipoise.evaluation.self_check_context import scale_free_cross_entropy
        >>> logits, labels = torch.tensor([[2.0, 0.5, -1.0]]), torch.tensor([0])
        >>> scale_free_cross_entropy(logits, labels), scale_free_cross_entropy(1e4 * logits, labels)
        (tensor([0.4076]), tensor([0.4076]))
    """
    logits = logits.float()
    scale = logits.detach().std(dim=1, keepdim=True)
    return losses.cross_entropy(logits / torch.where(scale > 0, scale, 1.0), labels)


def relative_difference(logits: Logits, other: Logits) -> float:
    """Return the largest difference as a share of the logits' spread over the classes."""
    spread = logits.std(dim=1).mean().nan_to_num(1.0).clamp_min(1e-30)
    return float((logits - other).nan_to_num(0.0).abs().max() / spread)


class SelfCheckContext:
    """The images that the checks look at, and which of them each attack breaks.

    Every attack starts from the images that are classified correctly, runs when its result is first
    needed, and has its own random numbers.

    Args:
        model: Images in [0, 1] to logits. Attacks expect it inside ``attack_mode``.
        split: The images of the evaluation, on the model's device.
        threat: Builds the threat of a strength.
        epsilons: Strengths, ascending from 0; attacks use the last one.
        outcomes: What the evaluation's attacks did to all images of ``split``.
        seed: Random seed of all checks.
        images: Number of images to look at, the first ones.
        batch_size: Number of images at once.

    Attributes:
        modules_in_train_mode: Names of the modules that were in train mode when this context was
            made and that depend on it, or may; the model itself is ``""``.
        broken: Images that any attack so far has broken within the strongest epsilon.

    Raises:
        ValueError: If the strengths do not ascend from 0, if ``images`` or ``batch_size`` is not
            positive, or if ``outcomes`` are about other images or strengths.
    """

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        *,
        threat: Callable[[float], Threat],
        epsilons: Sequence[float],
        outcomes: Sequence[AttackOutcome],
        seed: int,
        images: int,
        batch_size: int,
    ) -> None:
        _check_arguments(len(split), epsilons, outcomes, images, batch_size)
        self.model = model
        self.modules_in_train_mode = tuple(
            name
            for name, module in model.named_modules()
            if module.training and (name == "" or _may_depend_on_mode(module))
        )
        self.outcomes, self.all_images = tuple(outcomes), len(split)
        clean, self.labels = split.first(images).batch(slice(None))
        self.images = clean.contiguous(memory_format=torch.channels_last)
        self.threat, self.epsilons = threat(epsilons[-1]), tuple(epsilons)
        self.seed, self.batch_size = seed, batch_size
        self.broken = torch.zeros_like(self.labels, dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.labels)

    def generator(self, name: str) -> torch.Generator:
        """Return the random numbers of one named use."""
        generator = torch.Generator(self.images.device)
        return generator.manual_seed(derive_seed(self.seed, "self checks", name))

    @property
    def attackable(self) -> bool:
        """Whether there is a strength, a correctly classified image, and a gradient."""
        return len(self.epsilons) > 1 and bool(self.correct.any()) and self.differentiable

    @cached_property
    def differentiable(self) -> bool:
        """Whether the logits have a gradient with respect to the images."""
        with torch.enable_grad():
            logits: Tensor = self.model(self.images[:1].clone().requires_grad_(True))
            return logits.requires_grad

    @property
    def survived(self) -> Mask:
        """Images that no attack of the evaluation broke."""
        never = [outcome.broken_at[: len(self)] == NEVER for outcome in self.outcomes]
        return torch.stack(never).all(dim=0).to(self.labels.device)

    def broken_first(self, kinds: tuple[Kind, ...], others: tuple[Kind, ...]) -> Int[Tensor, " n"]:
        """Find the images that attacks of some kinds broke at a lower strength than others did.

        Args:
            kinds: Kinds of attack whose strength is returned.
            others: Kinds of attack to compare with.

        Returns:
            ``(n,)`` for all images of the evaluation: index of the lowest strength at which
            ``kinds`` broke the image, if ``others`` broke it at none or only at a higher one;
            otherwise 0.
        """
        never = torch.iinfo(torch.int64).max

        def lowest(kinds: tuple[Kind, ...]) -> Tensor:
            levels = [outcome.broken_at.cpu() for outcome in self.outcomes if outcome.kind in kinds]
            levels = [torch.where(level > 0, level.long(), never) for level in levels]
            return torch.stack([torch.full((self.all_images,), never), *levels]).amin(dim=0)

        level, others_level = lowest(kinds), lowest(others)
        return torch.where(level < others_level, level, 0).to(self.labels.device)

    @torch.no_grad()
    def logits_of(self, images: Images) -> Logits:
        """Return the model's logits."""
        return torch.cat([self.model(batch) for batch in images.split(self.batch_size)])

    def broken_by(
        self,
        name: str,
        search: Search,
        loss: Callable[..., PerImage],
        *,
        threat: Threat | None = None,
        among: Mask | None = None,
    ) -> Mask:
        """Run a white-box search and return the images that it breaks; every visited point counts.

        Args:
            name: Name of its random numbers.
            search: The search.
            loss: Per-image loss to maximise.
            threat: Where to search; the strongest epsilon by default.
            among: Images to attack; all correctly classified ones by default.
        """
        threat = self.threat if threat is None else threat
        attacked = (self.correct if among is None else among).nonzero().squeeze(1)
        generator, broken = self.generator(name), torch.zeros_like(self.correct)
        for rows in attacked.split(self.batch_size) if len(attacked) else ():
            confirm = partial(misclassifies, self.model) if draws_of(self.model) else None
            tracker = SuccessTracker(
                self.model, self.labels[rows], loss, confirm=confirm, fold=fold_of(self.model)
            )
            search(tracker, self.images[rows], select_rows(threat, rows), generator)
            broken[rows] = tracker.broken
        if threat is self.threat:
            self.broken |= broken
        return broken

    @cached_property
    def logits(self) -> Logits:
        """Logits of the clean images."""
        return self.logits_of(self.images)

    @cached_property
    def correct(self) -> Mask:
        """Images that are classified correctly without an attack."""
        return self.logits.argmax(dim=1) == self.labels

    @cached_property
    def gradient(self) -> Float[Tensor, "batch channel height width"]:
        """Gradient of the cross-entropy at the clean images."""
        batches = zip(
            self.images.split(self.batch_size), self.labels.split(self.batch_size), strict=True
        )
        return torch.cat(
            [
                value_and_gradient(cross_entropy(self.model, labels), images)[1]
                for images, labels in batches
            ]
        )

    @cached_property
    def broken_by_noise(self) -> Mask:
        """Images broken by one of 25 random points of the threat."""
        generator, broken = self.generator("noise"), torch.zeros_like(self.correct)
        for _ in range(NOISE_DRAWS):
            points = self.threat.random_start(self.images, generator)
            batches = zip(
                points.split(self.batch_size), self.labels.split(self.batch_size), strict=True
            )
            broken |= torch.cat([misclassifies(self.model, *batch) for batch in batches])
        self.broken |= broken & self.correct
        return broken & self.correct

    @cached_property
    def broken_by_one_step(self) -> Mask:
        """Images broken by FGSM."""
        return self.broken_by("one step", ONE_STEP, losses.cross_entropy)

    @cached_property
    def broken_by_cross_entropy(self) -> Mask:
        """Images broken by 20 steps on the cross-entropy."""
        return self.broken_by("cross-entropy", MANY_STEPS, losses.cross_entropy)

    @cached_property
    def broken_by_scale_free(self) -> Mask:
        """Images broken by 20 steps on the cross-entropy of rescaled logits."""
        return self.broken_by("scale-free", MANY_STEPS, scale_free_cross_entropy)

    @cached_property
    def broken_by_margin(self) -> Mask:
        """Images broken by 20 steps on the margin."""
        return self.broken_by("margin", MANY_STEPS, losses.margin)

    @cached_property
    def broken_by_long_only(self) -> Mask:
        """Images broken by 100 steps on the margin, twice, but not by 20 steps on any loss."""
        short = self.broken_by_margin | self.broken_by_cross_entropy | self.broken_by_scale_free
        return self.broken_by("long", LONG, losses.margin, among=self.correct & ~short)

    def broken_again(self, levels: Int[Tensor, " batch"]) -> Mask:
        """Attack each image at its own strength, by 20 steps on the margin, twice.

        Args:
            levels: Index into the strengths for each image; images at 0 are not attacked.
        """
        threat = self.threat.with_epsilon(torch.tensor(self.epsilons, device=levels.device)[levels])
        return self.broken_by("again", TWO_RESTARTS, losses.margin, threat=threat, among=levels > 0)

    @cached_property
    def broken_without_limit(self) -> Mask | None:
        """Images broken by 50 steps inside the whole pixel box; ``None`` for an unknown threat."""
        if isinstance(self.threat, Linf):
            threat: Threat = self.threat.with_epsilon(1.0)
        elif isinstance(self.threat, L2):
            diagonal = sqrt(self.images[0].numel())
            threat = self.threat.with_epsilon(diagonal)
        else:
            return None
        broken = self.broken_by("anywhere", UNLIMITED, losses.margin, threat=threat)
        return broken | self.broken_by(
            "anywhere from clean",
            UNLIMITED_FROM_CLEAN,
            losses.cross_entropy,
            threat=threat,
            among=self.correct & ~broken,
        )


def _may_depend_on_mode(module: nn.Module) -> bool:
    """Return whether train mode changes what a module does; a module not from torch may."""
    known = type(module).__module__.startswith("torch.nn.")
    return not known or isinstance(module, MODE_DEPENDENT_MODULES)


def _check_arguments(
    count: int,
    epsilons: Sequence[float],
    outcomes: Sequence[AttackOutcome],
    images: int,
    batch_size: int,
) -> None:
    ascends = all(low < high for low, high in pairwise(epsilons))
    if not epsilons or epsilons[0] != 0 or not ascends:
        raise InvalidInput(f"epsilons must ascend from 0, got {tuple(epsilons)}.")
    if images < 1 or batch_size < 1:
        raise InvalidInput(
            f"images and batch_size must be 1 or more, got {images} and {batch_size}."
        )
    for outcome in outcomes:
        name = f"{outcome.suite}/{outcome.name}"
        if len(outcome.broken_at) != count:
            raise InvalidInput(
                f"{name} was run on {len(outcome.broken_at)} images but the split has {count}; "
                "pass the split that was evaluated."
            )
        low, high = int(outcome.broken_at.min()), int(outcome.broken_at.max())
        if low < NEVER or high >= len(epsilons):
            raise InvalidInput(
                f"{name}: broken_at must be -1 or an index into the {len(epsilons)} epsilons, "
                f"got {low}..{high}."
            )
