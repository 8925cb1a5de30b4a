"""Random changes to training images, in batches on their device."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from equipoise.types import Images

OPERATIONS = ("brightness", "contrast", "colour", "rotation", "translation", "cutout")
"""What the random operations of ``Augmentation`` are drawn from."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random shifts, flips and operations, one draw an image, computed on the images' device.

    Args:
        shift: Pad by this many pixels and crop back at a random place.
        padding: What the border is filled with. ``"reflect"`` leaves no constant border that an
            attack colours and that a detector of attacks learns in place of the attack.
        flip: Mirror each image left to right with probability 1/2.
        operations: Apply so many of ``OPERATIONS`` to each image, one after the other, drawn anew
            for every image.
        magnitude: How strong they are at most, in [0, 1]: a factor of 1 ± 0.9 for brightness,
            contrast and colour, 30 degrees, 0.3 of a side for translation, 0.5 of a side for the
            grey square of cutout.

    Raises:
        ValueError: If a number is out of range.

    Source:
        The operations are a small choice from AutoAugment (Cubuk et al. 2019, 1805.09501), drawn
        uniformly as by RandAugment (Cubuk et al. 2020, 1909.13719); cutout: DeVries and Taylor 2017
        (1708.04552). Ranges are ours, and each strength is drawn uniformly.
    """

    shift: int = 0
    padding: Literal["zeros", "reflect"] = "zeros"
    flip: bool = False
    operations: int = 0
    magnitude: float = 0.5

    def __post_init__(self) -> None:
        if self.shift < 0 or self.operations < 0:
            raise ValueError(
                f"shift and operations must be 0 or more, got {self.shift} and {self.operations}."
            )
        if not 0 <= self.magnitude <= 1:
            raise ValueError(f"magnitude must be in [0, 1], got {self.magnitude}.")

    def __call__(self, images: Images, generator: torch.Generator) -> Images:
        """Augment a batch.

        Args:
            images: Images in [0, 1].
            generator: The only source of randomness.

        Returns:
            Images of the same shape.
        """
        batch, _, height, width = images.shape
        if self.shift:
            mode = "constant" if self.padding == "zeros" else "reflect"
            padded = functional.pad(images, [self.shift] * 4, mode=mode)
            places = torch.randint(
                0, 2 * self.shift + 1, (2, batch), generator=generator, device=generator.device
            ).to(images.device)
            rows = places[0][:, None] + torch.arange(height, device=images.device)
            columns = places[1][:, None] + torch.arange(width, device=images.device)
            index = torch.arange(batch, device=images.device)[:, None, None]
            images = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
            images = images.permute(0, 3, 1, 2)
        if self.flip:
            coin = torch.rand(batch, generator=generator, device=generator.device) < 0.5
            images = torch.where(
                coin.to(images.device)[:, None, None, None], images.flip(3), images
            )
        for _ in range(self.operations):
            images = self._operated(images, generator)
        return images.contiguous()

    def _operated(self, images: Images, generator: torch.Generator) -> Images:
        """One operation an image; every one is computed for all, and one is kept."""
        draws = torch.rand(4, len(images), generator=generator, device=generator.device)
        which, strength, across, down = draws.to(images.device)
        which = (which * len(OPERATIONS)).long()
        strength, across, down = (2 * each - 1 for each in (strength, across, down))
        strength, still = strength * self.magnitude, torch.zeros_like(strength)
        factor = (1 + 0.9 * strength)[:, None, None, None]
        middle = images.mean(dim=(1, 2, 3), keepdim=True)
        grey = images.mean(dim=1, keepdim=True)
        reach = 0.6 * self.magnitude  # of a side that is 2 long
        border = "zeros" if self.padding == "zeros" else "reflection"
        found = (
            images * factor,
            middle + (images - middle) * factor,
            grey + (images - grey) * factor,
            moved(images, strength * math.radians(30), still, still, border),
            moved(images, still, reach * across, reach * down, border),
            _cut(images, across, down, 0.5 * strength.abs()),
        )
        for number, changed in enumerate(found):
            images = torch.where((which == number)[:, None, None, None], changed, images)
        return images.clamp(0, 1)


def moved(
    images: Images,
    angle: Float[Tensor, " batch"],
    across: Float[Tensor, " batch"],
    down: Float[Tensor, " batch"],
    border: str = "zeros",
) -> Images:
    """Turn and shift images, each by its own amount, with bilinear interpolation.

    Args:
        images: Images in [0, 1].
        angle: In radians, clockwise.
        across: To the right, in half widths.
        down: Downwards, in half heights.
        border: What comes in from outside: ``"zeros"`` or ``"reflection"``.

    Returns:
        Images of the same shape.
    """
    _, _, height, width = images.shape
    cosine, sine = angle.cos(), angle.sin()
    # Where each pixel comes from; sides are 2 long, so the aspect ratio turns with the image.
    first = torch.stack([cosine, sine * height / width, -across], dim=1)
    second = torch.stack([-sine * width / height, cosine, -down], dim=1)
    grid = functional.affine_grid(
        torch.stack([first, second], dim=1), list(images.shape), align_corners=False
    )
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode=border, align_corners=False
    )


def _cut(images: Images, across: Tensor, down: Tensor, share: Tensor) -> Images:
    """A grey square at a random place, its side a share of the image's."""
    _, _, height, width = images.shape
    rows = torch.linspace(-1, 1, height, device=images.device)
    columns = torch.linspace(-1, 1, width, device=images.device)
    near_row = (rows - down[:, None]).abs() <= share[:, None]
    near_column = (columns - across[:, None]).abs() <= share[:, None]
    return torch.where((near_row[:, :, None] & near_column[:, None, :])[:, None], 0.5, images)
