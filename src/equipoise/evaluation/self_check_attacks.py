"""What self-checks are made of: findings, and attacks that run at most once and are shared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from equipoise.evaluation.attack import Kind
from equipoise.evaluation.robustness_profile import NEVER, AttackOutcome
from equipoise.records.statistics import wilson_interval
from equipoise.runtime.seeds import derive_seed
from equipoise.types import Images, Labels, Logits, PerImage

Mask = Bool[Tensor, " batch"]
Verdict = Literal["pass", "warn", "fail"]

ACTS_BY_MODE = (
    nn.modules.batchnorm._NormBase,  # batch norms and instance norms
    nn.modules.dropout._DropoutNd,
    nn.RReLU,
    nn.MultiheadAttention,
    nn.RNNBase,
)
DRAWS = 25
ONE_STEP = PGD(steps=1, relative_step=1.0, random_start=False, keep="best")
MANY_STEPS = PGD(steps=20, relative_step=0.25, keep="best")
TWICE = PGD(steps=20, relative_step=0.25, restarts=2, keep="best")
LONG = PGD(steps=100, relative_step=0.1, restarts=2, keep="best")
ANYWHERE = PGD(steps=50, relative_step=0.25, keep="best")
ANYWHERE_FROM_CLEAN = PGD(steps=50, relative_step=0.25, random_start=False, keep="best")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check measured.

    Args:
        name: The check's name, such as ``"randomised"``.
        verdict: ``"fail"``: the score says nothing, or too much; ``"warn"``: look before you trust
            it.
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
        """A finding whose meaning is ``good`` if it passed, else ``bad``; JSON has no NaN, so a
        number that is not finite is left out."""
        numbers = {key: value for key, value in numbers.items() if isfinite(value)}
        meaning = good if verdict == "pass" else bad
        return cls(name=name, verdict=verdict, found=found, meaning=meaning, numbers=numbers)


def graded(hits: int, count: int, *, warn: float, fail: float) -> Verdict:
    """The verdict on a share of images; a single image may always be chance.

    Args:
        hits: Images that speak against the score.
        count: Of so many.
        warn: Share, [0, 1], that must be passed by more than the noise of so few images: the lower
            end of the Wilson interval of one standard error counts.
        fail: The same for a failure.

    Returns:
        The verdict.
    """
    least = wilson_interval(hits, count, z=1.0)[0] if hits > 1 else 0.0
    return "fail" if least > fail else "warn" if least > warn else "pass"


def scale_free_cross_entropy(logits: Logits, labels: Labels) -> PerImage:
    """Cross-entropy of logits divided by their own standard deviation over the classes.

    The deviation is held fixed in the gradient, so that only the logits' scale is taken out:
    softmax in float32 saturates for large logits, and the cross-entropy's gradient vanishes there.

    Returns:
        ``(batch,)``.

    Source:
        Ours, after the scale invariance of the DLR loss (Croce and Hein 2020, Sec. 4).
    """
    logits = logits.float()
    scale = logits.detach().std(dim=1, keepdim=True)
    return losses.cross_entropy(logits / torch.where(scale > 0, scale, 1.0), labels)


def apart(one: Logits, other: Logits) -> float:
    """The largest difference of two answers, as a share of the rows' spread over the classes."""
    spread = one.std(dim=1).mean().nan_to_num(1.0).clamp_min(1e-30)
    return float((one - other).nan_to_num(0.0).abs().max() / spread)


class SelfCheckContext:
    """The images that are looked at, and which of them each probe breaks at the strongest epsilon.

    Every probe starts from the images that are right without an attack, is computed when it is
    first asked for, and has random numbers of its own.

    Args:
        model: Images in [0, 1] to logits. Attacks expect it inside ``attack_mode``.
        split: The images of the evaluation, on the model's device.
        threat: Makes the threat of a strength.
        epsilons: Strengths, ascending from 0.
        tried: What the evaluation tried, on all images of ``split``.
        seed: Of all random numbers.
        images: Look at the first so many images.
        batch_size: Images at once.

    Attributes:
        awake: Names of the modules that were in train mode when this was made and are known to act
            by it, or may; the model itself is ``""``.
        broken: Which images any probe so far has broken within the strongest epsilon.

    Raises:
        ValueError: If the strengths do not ascend from 0, ``images`` or ``batch_size`` is not
            positive, or ``tried`` is about other images or strengths.
    """

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        *,
        threat: Callable[[float], Threat],
        epsilons: Sequence[float],
        tried: Sequence[AttackOutcome],
        seed: int,
        images: int,
        batch_size: int,
    ) -> None:
        _refuse(len(split), epsilons, tried, images, batch_size)
        self.model = model
        self.awake = tuple(
            name
            for name, module in model.named_modules()
            if module.training and (name == "" or _acts_by_mode(module))
        )
        self.tried, self.all_images = tuple(tried), len(split)
        clean, self.labels = split.first(images).batch(slice(None))
        self.images = clean.contiguous(memory_format=torch.channels_last)
        self.threat, self.epsilons = threat(epsilons[-1]), tuple(epsilons)
        self.seed, self.batch_size = seed, batch_size
        self.broken = torch.zeros_like(self.labels, dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.labels)

    def generator(self, name: str) -> torch.Generator:
        """Random numbers of one named use."""
        generator = torch.Generator(self.images.device)
        return generator.manual_seed(derive_seed(self.seed, "self checks", name))

    @property
    def attackable(self) -> bool:
        """Whether there is a strength, an image that is right, and a gradient to attack with."""
        return len(self.epsilons) > 1 and bool(self.right.any()) and self.differentiable

    @cached_property
    def differentiable(self) -> bool:
        """Whether autograd reaches the images through the model at all."""
        with torch.enable_grad():
            answer: Tensor = self.model(self.images[:1].clone().requires_grad_(True))
            return answer.requires_grad

    @property
    def survived(self) -> Mask:
        """Whether each image looked at is right after all that the evaluation tried."""
        never = [one.broken_at[: len(self)] == NEVER for one in self.tried]
        return torch.stack(never).all(dim=0).to(self.labels.device)

    def ahead(self, kinds: tuple[Kind, ...], others: tuple[Kind, ...]) -> Int[Tensor, " n"]:
        """Where attacks of some kinds broke an image that others never did, or only later.

        Args:
            kinds: Their strength is given.
            others: What is compared with; both a ``AttackOutcome``'s ``kind``.

        Returns:
            ``(n,)`` for all images of the evaluation: index of the lowest strength at which
            ``kinds`` broke the image if ``others`` had not by then, else 0.
        """
        never = torch.iinfo(torch.int64).max

        def lowest(wanted: tuple[Kind, ...]) -> Tensor:
            rows = [one.broken_at.cpu() for one in self.tried if one.kind in wanted]
            rows = [torch.where(row > 0, row.long(), never) for row in rows]
            return torch.stack([torch.full((self.all_images,), never), *rows]).amin(dim=0)

        at, before = lowest(kinds), lowest(others)
        return torch.where(at < before, at, 0).to(self.labels.device)

    @torch.no_grad()
    def logits_of(self, images: Images) -> Logits:
        """The model's answer."""
        return torch.cat([self.model(part) for part in images.split(self.batch_size)])

    def attacked(
        self,
        name: str,
        search: Search,
        loss: Callable[..., PerImage],
        *,
        threat: Threat | None = None,
        among: Mask | None = None,
    ) -> Mask:
        """Which images a white-box search breaks; every point that it visits counts.

        Args:
            name: Of its random numbers.
            search: How to look.
            loss: Per-image loss to climb.
            threat: Where to search; at the strongest epsilon by default.
            among: Attack only these images; all that are right by default.
        """
        threat = self.threat if threat is None else threat
        rows = (self.right if among is None else among).nonzero().squeeze(1)
        generator, broken = self.generator(name), torch.zeros_like(self.right)
        for part in rows.split(self.batch_size) if len(rows) else ():
            tracker = SuccessTracker(self.model, self.labels[part], loss)
            search(tracker, self.images[part], select_rows(threat, part), generator)
            broken[part] = tracker.broken
        if threat is self.threat:
            self.broken |= broken
        return broken

    @cached_property
    def logits(self) -> Logits:
        """Of the images without an attack."""
        return self.logits_of(self.images)

    @cached_property
    def right(self) -> Mask:
        """Whether each image is classified rightly without an attack."""
        return self.logits.argmax(dim=1) == self.labels

    @cached_property
    def gradient(self) -> Float[Tensor, "batch channel height width"]:
        """Of each label's cross-entropy with respect to the image."""
        parts = zip(
            self.images.split(self.batch_size), self.labels.split(self.batch_size), strict=True
        )
        return torch.cat(
            [
                value_and_gradient(cross_entropy(self.model, labels), images)[1]
                for images, labels in parts
            ]
        )

    @cached_property
    def noise(self) -> Mask:
        """Broken by one of 25 random points of the threat."""
        generator, broken = self.generator("noise"), torch.zeros_like(self.right)
        for _ in range(DRAWS):
            points = self.threat.random_start(self.images, generator)
            broken |= self.logits_of(points).argmax(dim=1) != self.labels
        self.broken |= broken & self.right
        return broken & self.right

    @cached_property
    def one_step(self) -> Mask:
        """Broken by FGSM."""
        return self.attacked("one step", ONE_STEP, losses.cross_entropy)

    @cached_property
    def by_cross_entropy(self) -> Mask:
        """Broken by 20 steps on the cross-entropy."""
        return self.attacked("cross-entropy", MANY_STEPS, losses.cross_entropy)

    @cached_property
    def by_scale_free(self) -> Mask:
        """Broken by 20 steps on the cross-entropy of logits of one scale."""
        return self.attacked("scale-free", MANY_STEPS, scale_free_cross_entropy)

    @cached_property
    def by_margin(self) -> Mask:
        """Broken by 20 steps on the margin."""
        return self.attacked("margin", MANY_STEPS, losses.margin)

    @cached_property
    def only_long(self) -> Mask:
        """Broken by 100 steps on the margin, twice, of those that 20 steps on any loss left."""
        left = self.right & ~(self.by_margin | self.by_cross_entropy | self.by_scale_free)
        return self.attacked("long", LONG, losses.margin, among=left)

    def again(self, at: Int[Tensor, " batch"]) -> Mask:
        """Broken by 20 steps on the margin, twice, each image at a strength of its own.

        Args:
            at: Index into the strengths; images at 0 are not attacked.
        """
        strengths = torch.tensor(self.epsilons, device=at.device)[at]
        threat = self.threat.with_epsilon(strengths)
        return self.attacked("again", TWICE, losses.margin, threat=threat, among=at > 0)

    @cached_property
    def anywhere(self) -> Mask | None:
        """Broken by 50 steps where every image is allowed; ``None`` for an unknown threat."""
        if isinstance(self.threat, Linf):
            threat: Threat = self.threat.with_epsilon(1.0)
        elif isinstance(self.threat, L2):
            threat = self.threat.with_epsilon(
                sqrt(self.images[0].numel())
            )  # the pixel box's diagonal
        else:
            return None
        broken = self.attacked("anywhere", ANYWHERE, losses.margin, threat=threat)
        return broken | self.attacked(
            "anywhere from clean",
            ANYWHERE_FROM_CLEAN,
            losses.cross_entropy,
            threat=threat,
            among=self.right & ~broken,
        )


def _acts_by_mode(module: nn.Module) -> bool:
    """Whether train mode changes what a module does; of a stranger's, that is not known."""
    known = type(module).__module__.startswith("torch.nn.")
    return not known or isinstance(module, ACTS_BY_MODE)


def _refuse(
    count: int,
    epsilons: Sequence[float],
    tried: Sequence[AttackOutcome],
    images: int,
    batch_size: int,
) -> None:
    ascends = all(low < high for low, high in pairwise(epsilons))
    if not epsilons or epsilons[0] != 0 or not ascends:
        raise ValueError(f"epsilons must ascend from 0, got {tuple(epsilons)}.")
    if images < 1 or batch_size < 1:
        raise ValueError(f"images and batch_size must be 1 or more, got {images} and {batch_size}.")
    for one in tried:
        if len(one.broken_at) != count:
            raise ValueError(
                f"{one.suite}/{one.name} was tried on {len(one.broken_at)} images but the split "
                f"has {count}; give the split that was evaluated."
            )
        low, high = int(one.broken_at.min()), int(one.broken_at.max())
        if low < NEVER or high >= len(epsilons):
            raise ValueError(
                f"{one.suite}/{one.name}: broken_at must be -1 or an index into the "
                f"{len(epsilons)} epsilons, got {low}..{high}."
            )
