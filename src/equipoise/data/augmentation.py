"""Random shifts and flips of training images, computed in batches on their device."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random shifts and flips, drawn independently for each image.

    Args:
        shift: Pad by this many pixels on each side and crop back at a random offset.
        padding: Fill value of the border. ``"reflect"`` leaves no constant border, which an attack
            would change and a detector of attacks would learn in place of the attack.
        flip: Mirror each image left to right with probability 1/2.

    Raises:
        ValueError: If ``shift`` is negative.

    Example:
        >>> import torch
        >>> augment = Augmentation(shift=4, padding="reflect", flip=True)
        >>> augment(torch.rand(8, 3, 32, 32), torch.Generator().manual_seed(0)).shape
        torch.Size([8, 3, 32, 32])
    """

    shift: int = 0
    padding: Literal["zeros", "reflect"] = "zeros"
    flip: bool = False

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise InvalidInput(f"shift must be 0 or more pixels, got {self.shift}.")

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
            offsets = torch.randint(
                0, 2 * self.shift + 1, (2, batch), generator=generator, device=generator.device
            ).to(images.device)
            rows = offsets[0][:, None] + torch.arange(height, device=images.device)
            columns = offsets[1][:, None] + torch.arange(width, device=images.device)
            index = torch.arange(batch, device=images.device)[:, None, None]
            images = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
            images = images.permute(0, 3, 1, 2)
        if self.flip:
            coin = torch.rand(batch, generator=generator, device=generator.device) < 0.5
            images = torch.where(
                coin.to(images.device)[:, None, None, None], images.flip(3), images
            )
        return images.contiguous()
