"""Two frozen batch norms blended per image, in one affine map."""

from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from equipoise.models.afa.branches import MultiBatchNorm2d
from equipoise.models.batch_norms import BatchNorm, scale_and_shift


class FusedBatchNorm2d(nn.Module):
    """Two batch norms with frozen statistics, blended per image, computed as one affine map.

    ``scale = w0 * s0 + w1 * s1`` and ``shift = w0 * t0 + w1 * t1`` where ``s = gamma / sigma`` and
    ``t = beta - mu * s`` of each norm: one pass over the features, not two norms and a blend.

    Args:
        channels: Channels of the features.

    Shape:
        Features ``(batch, channel, height, width)`` and weight ``(batch,)`` or ``(batch, channel)``
        to the features' shape.

    Source:
        AFA Eq. (2), with the norms' gamma and beta that it leaves out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", torch.ones(2, channels))
        self.register_buffer("shift", torch.zeros(2, channels))

    @classmethod
    def of(cls, norms: MultiBatchNorm2d, first: int, last: int) -> "FusedBatchNorm2d":
        """Fuse two branches of a norm at their running statistics."""
        pair: list[Any] = [norms.norm_copy(first), norms.norm_copy(last)]
        if type(pair[0]) not in get_args(BatchNorm) or pair[0].running_var is None:
            raise ValueError(
                f"{type(pair[0]).__name__} cannot be fused: only a plain nn.BatchNorm2d "
                "with running statistics is one affine map."
            )
        fused = cls(pair[0].num_features).to(pair[0].running_var)
        with torch.no_grad():
            for row, norm in enumerate(pair):
                fused.scale[row], fused.shift[row] = scale_and_shift(norm)
        return fused

    def forward(
        self,
        features: Float[Tensor, "batch channel height width"],
        weight: Float[Tensor, "batch *channel"],
    ) -> Float[Tensor, "batch channel height width"]:
        """Blend with weight W0 on the first norm and 1 - W0 on the second."""
        share = weight.to(self.scale.dtype).view(weight.shape[0], -1)
        scale = self.scale[1] + share * (self.scale[0] - self.scale[1])
        shift = self.shift[1] + share * (self.shift[0] - self.shift[1])
        return _affine(features, scale, shift)


def _affine(features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``features * scale + shift``, a row of factors an image; on processors as fits the layout."""
    last = features.is_contiguous(memory_format=torch.channels_last)
    plain = features.device.type != "cpu" or torch.compiler.is_compiling()
    if not last and not plain:
        # Every channel of every image as a channel of one image: a batch norm of its own.
        wide = features.reshape(1, -1, *features.shape[2:])
        still = torch.zeros_like(scale).flatten(), torch.ones_like(scale).flatten()
        found = functional.batch_norm(wide, *still, scale.flatten(), shift.flatten(), eps=0.0)
        return found.view(features.shape)
    scale, shift = (part.to(features.dtype)[:, :, None, None] for part in (scale, shift))
    if features.dtype == torch.bfloat16 and not plain:
        # Whole rows of pixels: below 64 channels, a pixel is shorter than the kernel's vectors.
        rows = (part.expand(-1, -1, -1, features.shape[3]) for part in (scale, shift))
        scale, shift = (part.contiguous(memory_format=torch.channels_last) for part in rows)
    return torch.addcmul(shift, features, scale)
