"""What self-checks look at: survivors of an evaluation, and attacks that run at most once."""

from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from math import sqrt

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from equipoise.attacks import PGD, Search, Square, losses
from equipoise.attacks.finishable_goals import SuccessTracker
from equipoise.attacks.goals import value_and_gradient
from equipoise.attacks.threat import L2, Linf, Threat, broadcast_epsilon, select_rows
from equipoise.data import Split
from equipoise.evaluation.asked_model import misclassifies
from equipoise.evaluation.attack import Attack, Kind, tracker_of
from equipoise.evaluation.profile import NEVER, Profile
from equipoise.evaluation.self_check_finding import Verdict, grade
from equipoise.evaluation.self_check_measures import scale_free_cross_entropy
from equipoise.runtime.errors import InvalidInput
from equipoise.runtime.seeds import derive_seed
from equipoise.types import Images, Logits, PerImage

Mask = Bool[Tensor, " batch"]
MODE_DEPENDENT_MODULES = (
    nn.modules.batchnorm._NormBase,  # batch norms and instance norms
    nn.modules.dropout._DropoutNd,
    nn.RReLU,
    nn.MultiheadAttention,
    nn.RNNBase,
)
NOISE_DRAWS = 25
MOST_AGAIN = 128
QUERIES = 1000
QUERIES_WITHOUT_GRADIENTS = 3000
ONE_STEP = PGD(steps=1, relative_step=1.0, random_start=False, keep="best")
MANY_STEPS = PGD(steps=20, relative_step=0.25, keep="best")
TWO_RESTARTS = PGD(steps=20, relative_step=0.25, restarts=2, keep="best")
LONG = PGD(steps=100, relative_step=0.1, restarts=2, keep="best")
UNLIMITED = PGD(steps=50, relative_step=0.25, keep="best")
UNLIMITED_FROM_CLEAN = PGD(steps=50, relative_step=0.25, random_start=False, keep="best")


class SelfCheckContext:
    """The images that the checks look at, and which of them each attack breaks.

    An image is attacked at the strongest strength that it survived in the evaluation, so that a
    broken image is one that the evaluation counts as right at that strength, and adding a strength
    hides none. Images that survived none are not attacked. Every attack starts from images that
    are classified correctly, runs when its result is first needed, and has its own random numbers.

    Args:
        model: Images in [0, 1] to logits. Attacks expect it inside ``attack_mode``.
        split: The images of the evaluation, on the model's device.
        profile: The result of the evaluation.
        threat: Builds the threat of a strength.
        seed: Random seed of all checks.
        images: Number of images to look at: survivors, evenly spaced, then others.
        batch_size: Number of images at once.

    Attributes:
        modules_in_train_mode: Names of the modules that were in train mode when this context was
            made and that depend on it, or may; the model itself is ``""``.
        levels: Index of the strongest strength that each image survived; 0 for none.
        broken: Images that any attack so far has broken at that strength.
        exposed: Share of all images that count as right at the weakest strength above 0: as far
            as any misleading attack can have raised the score.

    Raises:
        ValueError: If ``images`` or ``batch_size`` is not positive, or if ``profile`` is about
            other images or its parts do not fit together.
    """

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        profile: Profile,
        *,
        threat: Callable[[float], Threat],
        seed: int,
        images: int,
        batch_size: int,
    ) -> None:
        _check_arguments(len(split), profile, images, batch_size)
        self.model, self.split, self.profile = model, split, profile
        self.modules_in_train_mode = tuple(
            name
            for name, module in model.named_modules()
            if module.training and (name == "" or _may_depend_on_mode(module))
        )
        first, self.all_images = profile.broken_at(), len(split)
        strongest = len(profile.epsilons) - 1
        levels = torch.where(first == NEVER, strongest, first - 1).clamp_min(0)
        rows = _rows_to_look_at(levels > 0, images)
        clean, self.labels = split.batch(rows.to(split.device))
        self.images = clean.contiguous(memory_format=torch.channels_last)
        self.levels = levels[rows].to(split.device)
        self.classes = split.classes
        self.epsilons = torch.tensor(profile.epsilons, device=split.device)
        # Images that are not attacked still get noise, of the strongest strength.
        usual = torch.where(self.levels > 0, self.levels, strongest)
        self.threat = threat(profile.epsilons[-1]).with_epsilon(self.epsilons[usual])
        self.exposed = profile.accuracy()[min(1, strongest)]
        self.seed, self.batch_size = seed, batch_size
        self.broken = torch.zeros_like(self.labels, dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def looked_at(self) -> int:
        """Number of images that attacks run on."""
        return int(self.attacked.sum())

    def could_flatter(self, hits: int, count: int) -> float:
        """Return by how much the score could be too high, as a share of all images.

        Args:
            hits: Number of looked-at images that indicate a problem.
            count: Number of images looked at, all of which count as right.
        """
        return hits / max(1, count) * self.exposed

    def grade(self, hits: int, count: int, *, warn: float, fail: float) -> Verdict:
        """Grade by how much the score could be too high; as the function ``grade``."""
        share = max(self.exposed, 1e-9)
        return grade(hits, max(1, count), warn=warn / share, fail=fail / share)

    def generator(self, name: str) -> torch.Generator:
        """Return the random numbers of one named use."""
        generator = torch.Generator(self.images.device)
        return generator.manual_seed(derive_seed(self.seed, "self checks", name))

    @property
    def attackable(self) -> bool:
        """Whether an image that counts as right at some strength is classified correctly."""
        return bool(self.attacked.any())

    @cached_property
    def attacked(self) -> Mask:
        """Images that survived some strength, and are classified correctly now."""
        return (self.levels > 0) & self.correct

    @cached_property
    def differentiable(self) -> bool:
        """Whether the logits have a gradient with respect to the images."""
        if not getattr(self.model, "gives_gradients", True):
            return False
        with torch.enable_grad():
            logits: Tensor = self.model(self.images[:1].clone().requires_grad_(True))
            return logits.requires_grad

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
            levels = [
                outcome.broken_at.cpu()
                for outcome in self.profile.outcomes
                if outcome.kind in kinds
            ]
            levels = [torch.where(level > 0, level.long(), never) for level in levels]
            return torch.stack([torch.full((self.all_images,), never), *levels]).amin(dim=0)

        level, others_level = lowest(kinds), lowest(others)
        return torch.where(level < others_level, level, 0)

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
            threat: Where to search; by default, each image's strongest survived epsilon.
            among: Images to attack; all survivors by default.
        """
        threat = self.threat if threat is None else threat
        attacked = (self.attacked if among is None else among).nonzero().squeeze(1)
        generator, broken = self.generator(name), torch.zeros_like(self.correct)
        for rows in attacked.split(self.batch_size) if len(attacked) else ():
            tracker = tracker_of(self.model, self.labels[rows], loss)
            search(tracker, self.images[rows], select_rows(threat, rows), generator)
            broken[rows] = tracker.broken
        if threat is self.threat:
            self.broken |= broken
        return broken

    def broken_by_attack(self, attack: Attack, among: Mask) -> Mask:
        """Run an attack of a suite and return the images that it breaks."""
        generator, broken = self.generator(attack.name), torch.zeros_like(among)
        attacked = among.nonzero().squeeze(1)
        for rows in attacked.split(self.batch_size) if len(attacked) else ():
            threat = select_rows(self.threat, rows)
            result = attack.run(self.model, self.images[rows], self.labels[rows], threat, generator)
            broken[rows] = result.broken
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
    def noisy(self) -> Images:
        """One random point of the threat of each image."""
        return self.threat.random_start(self.images, self.generator("noisy")).detach()

    @cached_property
    def stepped(self) -> Images:
        """One step of the full epsilon from each image, as the gradient of the margin says."""
        gradient = self.gradient_at(self.images, losses.margin).nan_to_num()
        radius = broadcast_epsilon(self.threat.epsilon, self.images)
        step = radius * self.threat.ascent(gradient)
        return self.threat.project(self.images + step, self.images).detach()

    def gradient_at(self, points: Images, loss: Callable[..., PerImage]) -> Images:
        """Return the gradient of a per-image loss at some points."""
        batches = zip(
            points.split(self.batch_size), self.labels.split(self.batch_size), strict=True
        )
        return torch.cat(
            [
                value_and_gradient(lambda x, y=labels: loss(self.model(x), y), images)[1]
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
        self.broken |= broken & self.attacked
        return broken & self.attacked

    @cached_property
    def broken_by_queries(self) -> Mask:
        """Images broken by Square, which asks for logits alone; none under an unknown threat."""
        if not isinstance(self.threat, Linf | L2):
            return torch.zeros_like(self.attacked)
        queries = QUERIES if self.differentiable else QUERIES_WITHOUT_GRADIENTS
        with torch.no_grad():
            return self.broken_by("queries", Square(queries=queries), losses.margin)

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
        return self.broken_by("long", LONG, losses.margin, among=self.attacked & ~self.broken_short)

    @cached_property
    def broken_short(self) -> Mask:
        """Images broken by 20 steps on any loss."""
        return self.broken_by_margin | self.broken_by_cross_entropy | self.broken_by_scale_free

    def resisting(self, levels: Int[Tensor, " n"]) -> float:
        """Attack images at given strengths, by 20 steps on the margin, twice.

        Args:
            levels: Index into the strengths for all images of the evaluation; 0 is not attacked.

        Returns:
            Share of all images that resist; estimated from the first 128 with a level.
        """
        marked = (levels > 0).nonzero().squeeze(1)
        rows = marked[:MOST_AGAIN].to(self.labels.device)
        images, labels = self.split.batch(rows)
        threat = self.threat.with_epsilon(self.epsilons[levels.to(rows.device)[rows]])
        tracker = SuccessTracker(self.model, labels, losses.margin)
        TWO_RESTARTS(tracker, images, threat, self.generator("again"))
        return float((~tracker.broken).double().mean()) * len(marked) / len(levels)

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
            among=self.attacked & ~broken,
        )


def _may_depend_on_mode(module: nn.Module) -> bool:
    """Return whether train mode changes what a module does; a module not from torch may."""
    known = type(module).__module__.startswith("torch.nn.")
    return not known or isinstance(module, MODE_DEPENDENT_MODULES)


def _rows_to_look_at(survived: Mask, images: int) -> Int[Tensor, " looked"]:
    """Choose survivors, evenly spaced, and fill up with the first other images."""
    chosen = survived.nonzero().squeeze(1)
    if len(chosen) > images:
        chosen = chosen[torch.arange(images) * len(chosen) // images]
    others = (~survived).nonzero().squeeze(1)[: images - len(chosen)]
    return torch.cat([chosen, others]).sort().values


def _check_arguments(count: int, profile: Profile, images: int, batch_size: int) -> None:
    epsilons = profile.epsilons
    ascends = all(low < high for low, high in pairwise(epsilons))
    if not epsilons or epsilons[0] != 0 or not ascends:
        raise InvalidInput(f"the profile's epsilons must ascend from 0, got {tuple(epsilons)}.")
    if images < 1 or batch_size < 1:
        raise InvalidInput(
            f"images and batch_size must be 1 or more, got {images} and {batch_size}."
        )
    if len(profile.clean) != count:
        raise InvalidInput(
            f"the profile is of {len(profile.clean)} images but the split has {count}; "
            "pass the split that was evaluated."
        )
    for outcome in profile.outcomes:
        if len(outcome.broken_at) != count:
            raise InvalidInput(
                f"{outcome.suite}/{outcome.name} was run on {len(outcome.broken_at)} images but "
                f"the split has {count}; pass the split that was evaluated."
            )
        low, high = int(outcome.broken_at.min()), int(outcome.broken_at.max())
        if low < NEVER or high >= len(epsilons):
            raise InvalidInput(
                f"{outcome.suite}/{outcome.name}: broken_at must be -1 or an index into the "
                f"{len(epsilons)} epsilons, got {low}..{high}."
            )
