"""Two frozen batch norms blended per image, in one affine map."""

from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from equipoise.models.afa.branches import MultiBatchNorm2d
from equipoise.models.batch_norms import BatchNorm, scale_and_shift
from equipoise.runtime.errors import InvalidInput


class FusedBatchNorm2d(nn.Module):
    """Two batch norms with frozen statistics, blended per image and computed as one affine map.

    ``scale = w0 * s0 + w1 * s1`` and ``shift = w0 * t0 + w1 * t1``, where each norm has
    ``s = gamma / sigma`` and ``t = beta - mu * s``. This takes one pass over the features instead
    of two norms and a blend.

    Args:
        channels: Channels of the features.

    Shape:
        Features ``(batch, channel, height, width)`` and weight ``(batch,)`` or ``(batch, channel)``
        to the features' shape.

    Source:
        AFA Eq. (2), with the norms' gamma and beta, which it leaves out.

    Example:
        >>> import torch
        >>> fused = FusedBatchNorm2d(channels=1)
        >>> fused.scale.copy_(torch.tensor([[1.0], [3.0]])).flatten()
        tensor([1., 3.])
        >>> weight = torch.tensor([1.0, 0.5, 0.0])  # the first norm, half of each, the second
        >>> fused(torch.ones(3, 1, 1, 1), weight).flatten()
        tensor([1., 2., 3.])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", torch.ones(2, channels))
        self.register_buffer("shift", torch.zeros(2, channels))

    @classmethod
    def of(cls, norms: MultiBatchNorm2d, first: int, last: int) -> "FusedBatchNorm2d":
        """Fuse two branches of a norm at their running statistics.

        Raises:
            ValueError: If they are not plain batch norms with running statistics.
        """
        pair: list[Any] = [norms.norm_copy(first), norms.norm_copy(last)]
        kind = type(pair[0]).__name__
        if pair[0].running_var is None:
            raise InvalidInput(
                f"{kind} of {pair[0].num_features} channels keeps no running statistics, so what "
                "it does to an image depends on the batch, and AFA cannot fuse it. Build it with "
                "track_running_stats=True. AFS can stack the network as it is."
            )
        if type(pair[0]) not in get_args(BatchNorm):
            raise InvalidInput(
                f"{kind} cannot be fused: only a plain nn.BatchNorm2d is one affine map. Put what "
                "else it does into a module of its own."
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
        """Blend the norms, with weight W0 on the first and 1 - W0 on the second."""
        # AFA Eq. (2): W0 BN_0(x) + (1 - W0) BN_{K-1}(x), as one affine map per image
        share = weight.to(self.scale.dtype).view(weight.shape[0], -1)
        scale = self.scale[1] + share * (self.scale[0] - self.scale[1])
        shift = self.shift[1] + share * (self.shift[0] - self.shift[1])
        return _affine(features, scale, shift)

    def through(
        self, features: Float[Tensor, "batch channel height width"], row: int
    ) -> Float[Tensor, "batch channel height width"]:
        """Normalise through one norm of the pair: 0 is the first, 1 the second."""
        rows = (part[row].expand(features.shape[0], -1) for part in (self.scale, self.shift))
        return _affine(features, *rows)


def _affine(features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Compute ``features * scale + shift``, one row of factors for each image.

    On CPU the fastest kernel depends on the memory layout.
    """
    channels_last = features.is_contiguous(memory_format=torch.channels_last)
    on_cpu = features.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_cpu and not channels_last:
        # The batch norm kernel, with every channel of every image as a channel of one image.
        wide = features.reshape(1, -1, *features.shape[2:])
        statistics = torch.zeros_like(scale).flatten(), torch.ones_like(scale).flatten()
        result = functional.batch_norm(wide, *statistics, scale.flatten(), shift.flatten(), eps=0.0)
        return result.view(features.shape)
    scale, shift = (part.to(features.dtype)[:, :, None, None] for part in (scale, shift))
    if on_cpu and features.dtype == torch.bfloat16:
        # Expand to whole rows of pixels: with fewer than 64 channels, one pixel is shorter than
        # the kernel's vectors.
        rows = (part.expand(-1, -1, -1, features.shape[3]) for part in (scale, shift))
        scale, shift = (part.contiguous(memory_format=torch.channels_last) for part in rows)
    return torch.addcmul(shift, features, scale)
