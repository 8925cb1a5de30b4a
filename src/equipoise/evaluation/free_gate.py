"""R_free: the accuracy of an AFA model that remains if the attacker also chooses the gate's W0.

The gate of an adaptive network is computed from the image, so an attack can only push it. Whether
that matters depends on how far it could be pushed. ``free_gate`` gives W0 to the attacker: an image
survives only if no perturbation *and* no W0 within its range is found that misclassifies it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.attacks.goals import misclassified
from equipoise.attacks.losses import margin
from equipoise.attacks.threat import Threat, broadcast_epsilon
from equipoise.data import Split
from equipoise.evaluation.near_misses import NearMisses
from equipoise.evaluation.profile import Profile
from equipoise.evaluation.suites import suites_for
from equipoise.models import AdaptiveNetwork
from equipoise.models.afa.fused_batch_norm import FusedBatchNorm2d
from equipoise.models.attack_mode.context import attack_mode
from equipoise.runtime.errors import InvalidInput
from equipoise.runtime.seeds import derive_seed
from equipoise.types import Images, Labels, Logits

GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the largest W0 from which the joint search starts."""

ENDS = (0.0, 1.0)
"""Shares of the largest W0 at which the suite ``quick`` attacks with the gate held fixed."""

RELATIVE_STEP = 0.25
"""Step of the image, as a share of epsilon."""

GATE_STEP = 0.1
"""Step of W0, as a share of its range."""


def free_gate(
    model: AdaptiveNetwork,
    split: Split,
    profile: Profile,
    *,
    threat: Callable[[float], Threat],
    seed: int,
    steps: int = 20,
    batch_size: int = 256,
) -> dict[str, Any]:
    """Measure which images survive an attacker who chooses W0 for each image.

    Only images that survived the evaluation are attacked, at each strength: with the suite
    ``quick``, without its queries and its longest search, on the network with its gate held at 0
    and at its ceiling, and with a joint search
    over image and W0 from each value of ``GRID``: ``steps`` steps on the image, then as many on
    both. Whatever the evaluation broke counts as broken, because the gate's own W0 is in the range.
    A network with a gate for each pair of norms, or for each channel, has all of them chosen.

    Args:
        model: The adaptive network, in eval mode.
        split: The images of the evaluation, on the model's device.
        profile: The result of the evaluation on them.
        threat: Builds the threat of a strength.
        seed: Random seed of the attacks.
        steps: Steps of each search.
        batch_size: Images attacked at once.

    Returns:
        ``accuracy`` at each strength of the profile, the ``range`` of W0, the number of ``gates``
        that are chosen for an image, and ``images_attacked`` at each strength.

    Source:
        After MixedNUTS (Bai et al. 2024), whose bound holds whatever the mixing weight.

    Example:
        >>> import torch
        >>> from equipoise.attacks.threat import Linf
        >>> from equipoise.data import Split
        >>> from equipoise.evaluation import measure_profile, suites_for
        >>> from equipoise.models import WideResNet, fuse_branches, with_branches
        >>> network = with_branches(WideResNet(depth=10, width=1, classes=4, channels=1), 2)
        >>> model = fuse_branches(network, placement="input", ceiling=0.2).eval()
        >>> pixels = torch.arange(128, dtype=torch.uint8).reshape(2, 1, 8, 8)
        >>> split = Split(images=pixels, labels=torch.tensor([0, 1]), classes=4)
        >>> suites = suites_for(model, ["quick"], classes=4, steps=2)
        >>> profile = measure_profile(
        ...     model, split, threat=Linf, epsilons=(0.1,), suites=suites, seed=0
        ... )
        >>> result = free_gate(model, split, profile, threat=Linf, seed=0, steps=2)
        >>> result["range"], result["gates"], len(result["accuracy"])
        ([0.0, 0.2], 1, 2)
    """
    if not isinstance(model, AdaptiveNetwork):
        raise InvalidInput(
            f"free_gate needs an adaptive network, got {type(model).__name__}; only AFA models "
            "have a gate."
        )
    gates = _Gates.of(model)
    survives = torch.ones(len(split), dtype=torch.bool)
    accuracy, attacked = [], []
    with attack_mode(model), torch.autocast(split.device.type, enabled=False):
        for level, epsilon in enumerate(profile.epsilons):
            survives &= profile.correct()[level]
            rows = survives.nonzero().squeeze(1)
            attacked.append(len(rows))
            for batch in rows.split(batch_size) if len(rows) else ():
                generator = torch.Generator(split.device)
                first = str(int(batch[0]))
                generator.manual_seed(derive_seed(seed, "free gate", f"{epsilon}", first))
                images, labels = split.batch(batch.to(split.device))
                images = images.contiguous(memory_format=torch.channels_last)
                search = _FreeGateSearch(gates, threat(epsilon), generator, steps, split.classes)
                survives[batch] = ~search.broken(images, labels).cpu()
            accuracy.append(float(survives.double().mean()))
    return {
        "accuracy": accuracy,
        "range": [0.0, model.ceiling],
        "gates": gates.count,
        "images_attacked": attacked,
    }


@dataclass(frozen=True, kw_only=True)
class _Gates:
    """The free weights of an adaptive network: one for each image, pair of norms or channel."""

    model: AdaptiveNetwork
    norms: tuple[FusedBatchNorm2d, ...]
    parts: tuple[slice, ...]
    count: int

    @classmethod
    def of(cls, model: AdaptiveNetwork) -> "_Gates":
        norms = tuple(m for m in model.modules() if isinstance(m, FusedBatchNorm2d))
        channels = [norm.scale.shape[1] for norm in norms]
        if model.each == "channel":
            sizes = channels
        else:
            sizes = [1 if model.placement == "per_norm" else 0] * len(norms)
        starts = [sum(sizes[:index]) for index in range(len(sizes))]
        shared = sum(sizes) == 0
        parts = tuple(
            slice(0, 1) if shared else slice(start, start + size)
            for start, size in zip(starts, sizes, strict=True)
        )
        return cls(model=model, norms=norms, parts=parts, count=1 if shared else sum(sizes))

    def logits(self, images: Images, weights: Float[Tensor, "batch gates"]) -> Logits:
        """Return the logits with every W0 given, whatever the network's generators say."""
        with self._given(weights):
            logits: Logits = self.model(images, weight=0.0)
        return logits

    @contextmanager
    def _given(self, weights: Tensor) -> Iterator[None]:
        handles = [
            norm.register_forward_pre_hook(partial(_replace_weight, weights[:, part]))
            for norm, part in zip(self.norms, self.parts, strict=True)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _replace_weight(weight: Tensor, module: Any, inputs: Any) -> tuple[Tensor, Tensor]:
    return inputs[0], weight


@dataclass(frozen=True)
class _FreeGateSearch:
    """Attacks on image and W0 at one strength."""

    gates: _Gates
    threat: Threat
    generator: torch.Generator
    steps: int
    classes: int

    def broken(self, images: Images, labels: Labels) -> Tensor:
        """Return which images are misclassified for some perturbation and some W0."""
        broken = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        attacks = [partial(self._joint, start) for start in self._starts()]
        attacks += [partial(self._fixed, start * self.gates.model.ceiling) for start in ENDS]
        for attack in attacks:
            rows = (~broken).nonzero().squeeze(1)
            if not len(rows):
                break
            broken[rows] = attack(images[rows], labels[rows])
        return broken

    def _starts(self) -> list[float | None]:
        """Shares of the range; ``None`` draws either end for each of several gates."""
        return [*GRID, None, None] if self.gates.count > 1 else [*GRID]

    def _fixed(self, weight: float, images: Images, labels: Labels) -> Tensor:
        """Attack with the first searches of the suite ``quick`` while W0 is held fixed."""
        broken = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        if _is_zero(self.threat):
            return broken  # the joint search has tried this value
        model = partial(self.gates.model, weight=weight)
        (quick,) = suites_for(self.gates.model, ["quick"], classes=self.classes, steps=self.steps)
        for attack in quick.attacks:
            if attack.kind == "black box" or isinstance(attack, NearMisses):
                continue  # the evaluation has run them; here they would cost most and find least
            rows = (~broken).nonzero().squeeze(1)
            if not len(rows):
                break
            result = attack.run(model, images[rows], labels[rows], self.threat, self.generator)
            broken[rows] = result.broken
        return broken

    def _joint(self, start: float | None, images: Images, labels: Labels) -> Tensor:
        """Climb the margin in the image, and then in image and W0 together."""
        largest, shape = self.gates.model.ceiling, (len(images), self.gates.count)
        if start is None:
            draws = torch.rand(shape, generator=self.generator, device=images.device)
            weights = largest * draws.round()
        else:
            weights = torch.full(shape, largest * start, device=images.device)
        points = self.threat.random_start(images, self.generator)
        broken = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        length = RELATIVE_STEP * broadcast_epsilon(self.threat.epsilon, images)
        for step in range(2 * self.steps + 1):
            points.requires_grad_(True)
            weights.requires_grad_(True)
            with torch.enable_grad():
                logits = self.gates.logits(points, weights)
                value = margin(logits, labels).sum()
                gradients = torch.autograd.grad(value, (points, weights))
            broken |= misclassified(logits.detach(), labels)
            if bool(broken.all()):
                break
            of_image, of_gate = (gradient.nan_to_num() for gradient in gradients)
            moved = points.detach() + length * self.threat.ascent(of_image)
            points = self.threat.project(moved, images)
            weights = weights.detach()
            if step >= self.steps or _is_zero(self.threat):
                weights = (weights + GATE_STEP * largest * of_gate.sign()).clamp_(0.0, largest)
        return broken


def _is_zero(threat: Threat) -> bool:
    return not isinstance(threat.epsilon, Tensor) and threat.epsilon == 0
