"""What the attacker may do: a ball around the clean image, inside the pixel box [0, 1].

A threat is plain geometry: it projects, draws a random start and turns a gradient into a step
direction. Its epsilon is one number, or one number *per image*, so that attacks of many strengths
run as one batch.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipoise.distributed.shared_generator import randn_like, uniform_like
from equipoise.records.epsilon import check_epsilon
from equipoise.types import Images


@runtime_checkable
class Threat(Protocol):
    """The geometry every search needs; ``Linf`` and ``L2`` are the two that exist."""

    @property
    def epsilon(self) -> float | Float[Tensor, " batch"]:
        """Radius of the ball in pixel units, one for all images or one each."""
        ...

    def at(self, epsilon: float | Float[Tensor, " batch"]) -> "Threat":
        """The same kind of threat at another strength."""
        ...

    def project(self, images: Images, clean: Images) -> Images:
        """The nearest point of the ball around ``clean``, inside the pixel box."""
        ...

    def random_start(self, clean: Images, generator: torch.Generator) -> Images:
        """A point drawn uniformly from the ball, inside the pixel box."""
        ...

    def ascent(self, gradient: Images) -> Images:
        """The steepest ascent direction whose length, in the threat's own norm, is one."""
        ...


@dataclass(frozen=True)
class Linf:
    """Every pixel may move by at most ``epsilon``.

    Args:
        epsilon: Radius in pixel units, [0, 1]: one number, or a tensor ``(batch,)`` with one for
            each image.

    Raises:
        ValueError: If ``epsilon`` lies outside [0, 1]; ``8`` is refused, ``8 / 255`` is meant.

    Source:
        Madry et al. 2018, Sec. 2.1; AFS Eq. (4), which prints neither the sign nor the pixel box.
    """

    epsilon: float | Float[Tensor, " batch"]

    def __post_init__(self) -> None:
        _check_radius(self.epsilon, largest=1.0)

    def at(self, epsilon: float | Float[Tensor, " batch"]) -> "Linf":
        """The same threat at another strength."""
        return Linf(epsilon)

    def project(self, images: Images, clean: Images) -> Images:
        """Clamp every pixel to within ``epsilon`` of ``clean`` and to [0, 1]."""
        radius = per_image(self.epsilon, clean)
        return images.clamp((clean - radius).clamp_min_(0.0), (clean + radius).clamp_max_(1.0))

    def random_start(self, clean: Images, generator: torch.Generator) -> Images:
        """Uniform noise in ``(-epsilon, epsilon)`` on every pixel, then the pixel box."""
        noise = uniform_like(clean, -1.0, 1.0, generator)
        return self.project(clean + noise * per_image(self.epsilon, clean), clean)

    def ascent(self, gradient: Images) -> Images:
        """The sign of the gradient."""
        return gradient.sign()


@dataclass(frozen=True)
class L2:
    """The perturbation's Euclidean length may be at most ``epsilon``.

    Args:
        epsilon: Radius in pixel units, over all channels and pixels of one image (0.5 and 1 are
            usual for CIFAR-10): one number, or a tensor ``(batch,)``.

    Raises:
        ValueError: If ``epsilon`` is negative, infinite or not a number.

    Source:
        Madry et al. 2018, Appendix A.
    """

    epsilon: float | Float[Tensor, " batch"]

    def __post_init__(self) -> None:
        _check_radius(self.epsilon, largest=None)

    def at(self, epsilon: float | Float[Tensor, " batch"]) -> "L2":
        """The same threat at another strength."""
        return L2(epsilon)

    def project(self, images: Images, clean: Images) -> Images:
        """Shrink the perturbation to the ball, then clamp to [0, 1], which only shortens it."""
        radius = per_image(self.epsilon, clean)
        perturbation = images - clean
        length = _length(perturbation)
        # The small factor keeps float32 rounding inside the ball.
        scale = torch.where(length > radius, radius * (1 - 1e-6) / length.clamp_min(1e-12), 1.0)
        return (clean + perturbation * scale).clamp(0.0, 1.0)

    def random_start(self, clean: Images, generator: torch.Generator) -> Images:
        """A uniform direction and a radius that make the point uniform in the ball."""
        direction = randn_like(clean, generator)
        fraction = uniform_like(clean[:, :1, :1, :1], 0.0, 1.0, generator)
        radius = per_image(self.epsilon, clean) * fraction ** (1.0 / clean.shape[1:].numel())
        return self.project(clean + self.ascent(direction) * radius, clean)

    def ascent(self, gradient: Images) -> Images:
        """The gradient divided by its length; zero where the gradient is zero."""
        # Scaled by the largest entry first: a gradient of 1e-30 squares to zero in float32.
        largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
        scaled = gradient / torch.where(largest > 0, largest, 1.0)
        return scaled / _length(scaled).clamp_min(1e-12)


def narrowed(threat: Threat, rows: Int[Tensor, " rows"]) -> Threat:
    """The same threat for some of the images: only a strength per image changes."""
    epsilon = threat.epsilon
    return threat.at(epsilon[rows]) if isinstance(epsilon, Tensor) else threat


def per_image(value: float | Float[Tensor, " batch"], images: Images) -> float | Tensor:
    """Shape a number, or one number an image, so that it broadcasts over ``images``.

    Returns:
        The number itself, or a tensor ``(batch, 1, 1, 1)`` on the images' device.

    Raises:
        ValueError: If there is not one number for each image.
    """
    if not isinstance(value, Tensor):
        return value
    if value.shape != (images.shape[0],):
        raise ValueError(
            f"epsilon must be one number or one for each of the {images.shape[0]} images, "
            f"got a tensor of shape {tuple(value.shape)}."
        )
    return value.to(images.device, images.dtype)[:, None, None, None]


def _length(perturbation: Images) -> Tensor:
    return perturbation.flatten(1).norm(dim=1)[:, None, None, None]


def _check_radius(epsilon: float | Tensor, largest: float | None) -> None:
    if isinstance(epsilon, Tensor):
        if epsilon.ndim != 1:
            raise ValueError(
                f"epsilon must be a number or a tensor of shape (batch,), "
                f"got shape {tuple(epsilon.shape)}."
            )
        low, high = (epsilon.min().item(), epsilon.max().item()) if len(epsilon) else (0.0, 0.0)
    else:
        low = high = float(epsilon)
    for value in (low, high):
        if largest is not None:
            check_epsilon(value)
        elif not 0.0 <= value < float("inf"):
            raise ValueError(f"epsilon must be a finite length of 0 or more, got {value:g}.")
