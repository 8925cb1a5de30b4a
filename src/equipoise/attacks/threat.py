"""Threat models: the ball around the clean image that an attack may search, inside [0, 1].

A threat is plain geometry. It projects images, draws a random start and turns a gradient into a
step direction. Its epsilon is one number, or one number *per image*, so that attacks of different
strengths run as one batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipoise.distributed.shared_generator import randn_like, uniform_like
from equipoise.records.epsilon import check_epsilon
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images


@runtime_checkable
class Threat(Protocol):
    """The geometry that every search needs. ``Linf`` and ``L2`` implement it."""

    @property
    def epsilon(self) -> float | Float[Tensor, " batch"]:
        """Radius of the ball in pixel units: one for all images, or one per image."""
        ...

    def with_epsilon(self, epsilon: float | Float[Tensor, " batch"]) -> "Threat":
        """Return the same kind of threat with another epsilon."""
        ...

    def project(self, images: Images, clean: Images) -> Images:
        """Project ``images`` onto the ball around ``clean`` and onto [0, 1]."""
        ...

    def random_start(self, clean: Images, generator: torch.Generator) -> Images:
        """Draw a point uniformly from the ball, then project it onto [0, 1]."""
        ...

    def ascent(self, gradient: Images) -> Images:
        """Return the steepest ascent direction, of length one in the threat's own norm."""
        ...


@dataclass(frozen=True)
class Linf:
    """The L-infinity ball: every pixel may change by at most ``epsilon``.

    Args:
        epsilon: Radius in pixel units, in [0, 1]: one number, or a tensor ``(batch,)`` with one
            radius per image.

    Raises:
        ValueError: If ``epsilon`` is outside [0, 1], such as ``8`` in place of ``8 / 255``.

    Source:
        Madry et al. 2018, Sec. 2.1; AFS Eq. (4), which prints neither the sign nor the projection
        onto [0, 1].

    Example:
        >>> import torch
        >>> from equipoise.attacks.threat import Linf
        >>> clean, far = torch.full((1, 1, 1, 2), 0.5), torch.tensor([[[[0.9, 0.55]]]])
        >>> Linf(0.1).project(far, clean)
        tensor([[[[0.6000, 0.5500]]]])
        >>> Linf(8)
        Traceback (most recent call last):
        ...
        equipoise...InvalidInput: epsilon must be in [0, 1] pixel units, got 8. For the papers' ...
    """

    epsilon: float | Float[Tensor, " batch"]

    def __post_init__(self) -> None:
        _check_radius(self.epsilon, largest=1.0)

    def with_epsilon(self, epsilon: float | Float[Tensor, " batch"]) -> "Linf":
        """Return an L-infinity threat with another epsilon."""
        return Linf(epsilon)

    def project(self, images: Images, clean: Images) -> Images:
        """Clamp every pixel to within ``epsilon`` of ``clean`` and to [0, 1]."""
        radius = broadcast_epsilon(self.epsilon, clean)
        return images.clamp((clean - radius).clamp_min_(0.0), (clean + radius).clamp_max_(1.0))

    def random_start(self, clean: Images, generator: torch.Generator) -> Images:
        """Add uniform noise in ``(-epsilon, epsilon)`` to every pixel, then clamp to [0, 1]."""
        noise = uniform_like(clean, -1.0, 1.0, generator)
        return self.project(clean + noise * broadcast_epsilon(self.epsilon, clean), clean)

    def ascent(self, gradient: Images) -> Images:
        """Return the sign of the gradient."""
        return gradient.sign()


@dataclass(frozen=True)
class L2:
    """The L2 ball: the Euclidean length of the perturbation is at most ``epsilon``.

    Args:
        epsilon: Radius in pixel units, over all channels and pixels of one image (0.5 and 1 are
            usual for CIFAR-10): one number, or a tensor ``(batch,)`` with one radius per image.

    Raises:
        ValueError: If ``epsilon`` is negative, infinite or NaN.

    Source:
        Madry et al. 2018, Appendix A.

    Example:
        >>> import torch
        >>> from equipoise.attacks.threat import L2
        >>> clean = torch.full((1, 1, 1, 2), 0.5)
        >>> step = L2(0.5).ascent(torch.tensor([[[[3.0, -4.0]]]]))
        >>> step
        tensor([[[[ 0.6000, -0.8000]]]])
        >>> L2(0.5).project(clean + step, clean)
        tensor([[[[0.8000, 0.1000]]]])
    """

    epsilon: float | Float[Tensor, " batch"]

    def __post_init__(self) -> None:
        _check_radius(self.epsilon, largest=None)

    def with_epsilon(self, epsilon: float | Float[Tensor, " batch"]) -> "L2":
        """Return an L2 threat with another epsilon."""
        return L2(epsilon)

    def project(self, images: Images, clean: Images) -> Images:
        """Scale the perturbation to the ball, then clamp to [0, 1], which only shortens it."""
        radius = broadcast_epsilon(self.epsilon, clean)
        perturbation = images - clean
        length = _length(perturbation)
        # The factor 1 - 1e-6 keeps float32 rounding inside the ball.
        scale = torch.where(length > radius, radius * (1 - 1e-6) / length.clamp_min(1e-12), 1.0)
        return (clean + perturbation * scale).clamp(0.0, 1.0)

    def random_start(self, clean: Images, generator: torch.Generator) -> Images:
        """Draw a uniform direction, and a radius that makes the point uniform in the ball."""
        direction = randn_like(clean, generator)
        fraction = uniform_like(clean[:, :1, :1, :1], 0.0, 1.0, generator)
        dimensions = clean.shape[1:].numel()
        radius = broadcast_epsilon(self.epsilon, clean) * fraction ** (1.0 / dimensions)
        return self.project(clean + self.ascent(direction) * radius, clean)

    def ascent(self, gradient: Images) -> Images:
        """Return the gradient divided by its length; zero where the gradient is zero."""
        # Scale by the largest entry first: a gradient of 1e-30 squares to zero in float32.
        largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
        scaled = gradient / torch.where(largest > 0, largest, 1.0)
        return scaled / _length(scaled).clamp_min(1e-12)


def select_rows(threat: Threat, rows: Int[Tensor, " rows"]) -> Threat:
    """Return the threat for some images of the batch; only a per-image epsilon changes.

    Example:
        >>> import torch
        >>> from equipoise.attacks.threat import Linf, select_rows
        >>> select_rows(Linf(torch.tensor([0.0, 0.1, 0.2])), torch.tensor([0, 2])).epsilon
        tensor([0.0000, 0.2000])
    """
    epsilon = threat.epsilon
    return threat.with_epsilon(epsilon[rows]) if isinstance(epsilon, Tensor) else threat


def broadcast_epsilon(epsilon: float | Float[Tensor, " batch"], images: Images) -> float | Tensor:
    """Shape an epsilon so that it broadcasts over ``images``.

    Returns:
        The number itself, or a tensor ``(batch, 1, 1, 1)`` on the images' device.

    Raises:
        ValueError: If a tensor does not hold one epsilon per image.

    Example:
        >>> import torch
        >>> from equipoise.attacks.threat import broadcast_epsilon
        >>> broadcast_epsilon(torch.tensor([0.1, 0.2]), torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 1, 1, 1])
    """
    if not isinstance(epsilon, Tensor):
        return epsilon
    if epsilon.shape != (images.shape[0],):
        raise InvalidInput(
            f"epsilon must be one number or one for each of the {images.shape[0]} images, "
            f"got a tensor of shape {tuple(epsilon.shape)}."
        )
    return epsilon.to(images.device, images.dtype)[:, None, None, None]


def check_images(images: Tensor) -> None:
    """Reject images that no threat is defined for, before an attack moves them.

    Args:
        images: The clean images.

    Raises:
        ValueError: If they are not a batch of float32 or float64 images in [0, 1].

    Example:
        >>> import torch
        >>> from equipoise.attacks.threat import check_images
        >>> check_images(torch.tensor([[[[-2.0, 2.0]]]]))
        Traceback (most recent call last):
        ...
        equipoise...InvalidInput: an attack needs images in [0, 1], got values from -2 to 2. Put ...
    """
    if images.dtype not in (torch.float32, torch.float64):
        remedy = "images.float()" if images.is_floating_point() else "images.float() / 255"
        raise InvalidInput(
            f"an attack needs float32 or float64 images in [0, 1], got {images.dtype}; pass "
            f"{remedy}."
        )
    if images.ndim != 4:
        raise InvalidInput(
            "an attack needs images of shape (batch, channel, height, width), got "
            f"{tuple(images.shape)}; a single image is images[None]."
        )
    low, high = (value.item() for value in images.aminmax()) if images.numel() else (0.0, 1.0)
    if low != low:
        raise InvalidInput(
            "an attack needs images in [0, 1], got NaN; find out where it comes from."
        )
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise InvalidInput(
            f"an attack needs images in [0, 1], got values from {low:g} to {high:g}. Put the "
            "normalisation inside the model (equipoise.models.Normalise), and divide pixels of 0 "
            "to 255 by 255."
        )


def check_threat(threat: Any) -> None:
    """Reject what is not a threat, such as a number, before an attack uses it.

    Raises:
        ValueError: If it is not a threat.

    Example:
        >>> check_threat(0.1)
        Traceback (most recent call last):
        ...
        equipoise...InvalidInput: threat must be a threat such as Linf(8 / 255), got 0.1.
    """
    if isinstance(threat, type) or not isinstance(threat, Threat):
        name = threat.__name__ if isinstance(threat, type) else repr(threat)
        raise InvalidInput(f"threat must be a threat such as Linf(8 / 255), got {name}.")


def _length(perturbation: Images) -> Tensor:
    return perturbation.flatten(1).norm(dim=1)[:, None, None, None]


def _check_radius(epsilon: float | Tensor, largest: float | None) -> None:
    if isinstance(epsilon, Tensor):
        if epsilon.ndim != 1:
            raise InvalidInput(
                f"epsilon must be a number or a tensor of shape (batch,), "
                f"got shape {tuple(epsilon.shape)}."
            )
        bounds = (epsilon.min().item(), epsilon.max().item()) if len(epsilon) else (0.0, 0.0)
    elif isinstance(epsilon, bool) or not isinstance(epsilon, Real):
        raise InvalidInput(
            f"epsilon must be a number in pixel units, such as 8 / 255, got {epsilon!r}; of text "
            "such as '8/255', parse_epsilon makes one, and of several a tensor of shape (batch,)."
        )
    else:
        bounds = (float(epsilon), float(epsilon))
    for value in bounds:
        if largest is not None:
            check_epsilon(value)
        elif not 0.0 <= value < float("inf"):
            raise InvalidInput(f"epsilon must be a finite length of 0 or more, got {value:g}.")


_ROUNDING = 1e-6
"""How far outside [0, 1] rounding may move a pixel."""

Norm = Literal["Linf", "L2"]

THREATS: dict[str, Callable[[float | Tensor], Threat]] = {"Linf": Linf, "L2": L2}
"""The threat of each norm."""


def check_strengths(norm: Norm, *epsilons: float | None) -> None:
    """Reject strengths and step sizes that a norm cannot have, before anything is trained.

    Args:
        norm: Norm of the threat.
        epsilons: Lengths in pixel units; ``None`` is skipped.

    Raises:
        ValueError: If one is negative or not a number, or above 1 under L-inf.

    Example:
        >>> check_strengths("Linf", 8)
        Traceback (most recent call last):
        ...
        equipoise...InvalidInput: epsilon must be in [0, 1] pixel units, got 8. For the papers' ...
    """
    if norm not in THREATS:
        raise InvalidInput(f"norm must be one of {', '.join(THREATS)}, got {norm!r}.")
    for epsilon in epsilons:
        THREATS[norm](epsilon or 0.0)
