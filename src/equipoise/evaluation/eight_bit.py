"""Adversarial images on the 8-bit grid: rounded inside the threat, and attacked there if needed."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from equipoise.attacks.finishable_goals import SuccessTracker
from equipoise.attacks.goals import value_and_gradient
from equipoise.attacks.losses import margin
from equipoise.attacks.threat import L2, Threat
from equipoise.types import Images, Labels, Predict

FLOAT_NOISE = 1e-3
"""Grey levels that float32 may add to or take from a whole number of them."""

RANDOM_ROUNDINGS = 8
"""Roundings whose direction is drawn in proportion to the distance from either level."""

SEARCHES = 4
"""Gradient searches on the grid: from the adversarial image, and from random points."""


@dataclass(frozen=True, kw_only=True)
class EightBitImages:
    """Adversarial images in 8 bits, each inside its threat.

    Args:
        images: The images; the rounded ones where no image that fools was found.
        broken: Whether each fools the model as 8-bit image.
        by_rounding: Whether rounding towards the clean image was enough.
    """

    images: UInt8[Tensor, "n channel height width"]
    broken: Bool[Tensor, " n"]
    by_rounding: Bool[Tensor, " n"]


def to_eight_bits(
    model: Predict,
    adversarial: Images,
    clean: UInt8[Tensor, "n channel height width"],
    labels: Labels,
    threat: Threat,
    generator: torch.Generator,
    steps: int = 20,
) -> EightBitImages:
    """Round adversarial images to 8 bits so that they stay inside the threat and still fool.

    Every pixel is first rounded towards the clean image, which only shortens the perturbation.
    Images that the model then classifies correctly are tried rounded to the nearest level, away
    from the clean image, and at random; then a gradient search takes its gradients and scores on
    the grid.

    Args:
        model: Images in [0, 1] to logits, in attack mode.
        adversarial: The adversarial images, inside the threat.
        clean: The clean images.
        labels: Class indices.
        threat: The threat, with one epsilon.
        generator: The only source of randomness.
        steps: Steps of each search on the grid.

    Returns:
        The images.

    Example:
        >>> import torch
        >>> from equipoise.attacks.threat import Linf
        >>> model = lambda images: torch.cat([0.5 - images, images - 0.5], dim=1)[:, :, 0, 0]
        >>> clean = torch.full((1, 1, 1, 1), 126, dtype=torch.uint8)  # class 1 begins at 127.5
        >>> adversarial = torch.full((1, 1, 1, 1), 127.6 / 255)
        >>> result = to_eight_bits(
        ...     model, adversarial, clean, torch.tensor([0]), Linf(2 / 255), torch.Generator()
        ... )
        >>> result.images.item(), result.broken.item(), result.by_rounding.item()
        (128, True, False)
    """
    grid = _Grid(clean=clean.float(), threat=threat)
    change = adversarial * 255 - grid.clean
    rounded = grid.towards_clean(change)
    tracker = SuccessTracker(model, labels, margin)
    tracker.record(grid.images(rounded), _logits(model, grid.images(rounded)))
    by_rounding = tracker.broken.clone()
    rows = (~tracker.broken).nonzero().squeeze(1)
    if len(rows):
        _attack_on_grid(model, tracker.select(rows), grid.at(rows), change[rows], generator, steps)
    images = tracker.replace_finished(grid.images(rounded))
    return EightBitImages(
        images=(images * 255).round().to(torch.uint8),
        broken=tracker.broken,
        by_rounding=by_rounding,
    )


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """The 8-bit images inside a threat. A change is in grey levels, from the clean image."""

    clean: Tensor
    threat: Threat

    def at(self, rows: Tensor) -> "_Grid":
        return _Grid(clean=self.clean[rows], threat=self.threat)

    def images(self, change: Tensor) -> Images:
        return ((self.clean + change) / 255).contiguous(memory_format=torch.channels_last)

    @property
    def radius(self) -> float:
        """Epsilon in grey levels."""
        return float(self.threat.epsilon) * 255

    def towards_clean(self, change: Tensor) -> Tensor:
        noise = 0.0 if isinstance(self.threat, L2) else FLOAT_NOISE
        return self._inside(change.sign() * (change.abs() + noise).floor(), change)

    def nearest(self, change: Tensor) -> Tensor:
        return self._inside(change.round(), change)

    def away_from_clean(self, change: Tensor) -> Tensor:
        return self._inside(change.sign() * (change.abs() - FLOAT_NOISE).ceil(), change)

    def at_random(self, change: Tensor, generator: torch.Generator) -> Tensor:
        draws = torch.rand(change.shape, generator=generator, device=change.device)
        return self._inside((change + draws).floor(), change)

    def _inside(self, rounded: Tensor, change: Tensor) -> Tensor:
        """Move a rounded change back inside the threat and [0, 255], on the grid."""
        rounded = (self.clean + rounded).clamp(0, 255) - self.clean
        if isinstance(self.threat, L2):
            return _shorten(rounded, change, self.radius)
        levels = math.floor(self.radius + FLOAT_NOISE)
        return rounded.clamp(-levels, levels)


def _shorten(rounded: Tensor, change: Tensor, radius: float) -> Tensor:
    """Round pixels towards zero instead, those that were lengthened most first, until it fits.

    Rounding all of them towards zero never makes the change longer than ``change`` itself.
    """
    flat, original = rounded.flatten(1), change.flatten(1)
    shorter = original.sign() * original.abs().floor()
    gain = (flat.square() - shorter.square()).clamp_min(0.0)
    order = (flat.abs() - original.abs()).argsort(dim=1, descending=True)
    excess = flat.square().sum(dim=1, keepdim=True) - (radius * (1 + 1e-7)) ** 2
    gained_before = gain.gather(1, order).cumsum(dim=1) - gain.gather(1, order)
    revert = torch.zeros_like(flat, dtype=torch.bool).scatter(1, order, gained_before < excess)
    return torch.where(revert & (gain > 0), shorter, flat).view(rounded.shape)


def _attack_on_grid(
    model: Predict,
    tracker: SuccessTracker,
    grid: _Grid,
    change: Float[Tensor, "n channel height width"],
    generator: torch.Generator,
    steps: int,
) -> None:
    """Look for images on the grid that fool the model; ``tracker`` stores them."""
    candidates = [grid.nearest(change), grid.away_from_clean(change)]
    candidates += [grid.at_random(change, generator) for _ in range(RANDOM_ROUNDINGS)]
    for candidate in candidates:
        tracker.record(grid.images(candidate), _logits(model, grid.images(candidate)))
    if not getattr(model, "gives_gradients", True):
        return
    for number in range(SEARCHES):
        rows = (~tracker.broken).nonzero().squeeze(1)
        if not len(rows):
            return
        part, goal = grid.at(rows), tracker.select(rows)
        clean = part.clean / 255
        points = clean + change[rows] / 255
        if number:
            points = grid.threat.random_start(clean, generator)
        for step in range(steps):
            on_grid = part.images(part.nearest(points * 255 - part.clean))
            _, gradient = value_and_gradient(goal, on_grid)
            if bool(goal.broken.all()):
                break
            # At least half a level, or a small threat's step would not leave its grid point.
            length = max(float(grid.threat.epsilon) * (1 - step / steps) / 4, 0.5 / 255)
            ascent = grid.threat.ascent(gradient.nan_to_num())
            points = grid.threat.project(points + length * ascent, clean)


@torch.no_grad()
def _logits(model: Predict, images: Images) -> Tensor:
    logits: Tensor = model(images)
    return logits
