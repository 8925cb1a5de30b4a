"""FiLM: a scale and a shift of each channel, computed from an encoded preference."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Start = Literal["fresh", "identity"]


class FiLM(nn.Module):
    """Scale and shift each channel of the features, as a function of an encoded preference.

    Args:
        size: Length of an encoded preference.
        channels: Channels of the features, C.
        start: ``"fresh"`` keeps torch's initialisation, whose scale is near 0 rather than 1, as in
            the original; ``"identity"`` leaves the features unchanged until it is trained.

    Shape:
        Features ``(batch, channel, height, width)`` and codes ``(batch, size)``, or ``(1, size)``
        for the whole batch, to the features' shape.

    Source:
        Wang et al. 2020 (OAT), ``models/FiLM.py`` of its code: Linear(size -> 2C), LeakyReLU,
        Linear(2C -> 2C), and a leaky ReLU on scale and shift. ``"identity"`` is our addition.

    Example:
        >>> import torch
        >>> film = FiLM(size=4, channels=3, start="identity")
        >>> features = torch.rand(2, 3, 8, 8)
        >>> torch.equal(film(features, torch.rand(2, 4)), features)
        True
    """

    def __init__(self, size: int, channels: int, start: Start = "fresh") -> None:
        super().__init__()
        last = nn.Linear(2 * channels, 2 * channels)
        self.linears = nn.Sequential(nn.Linear(size, 2 * channels), nn.LeakyReLU(), last)
        if start == "identity":
            with torch.no_grad():
                last.weight.zero_()
                last.bias.copy_(torch.arange(2 * channels) < channels)  # scale 1, shift 0

    def forward(
        self,
        features: Float[Tensor, "batch channel height width"],
        code: Float[Tensor, "rows size"],
    ) -> Float[Tensor, "batch channel height width"]:
        """Return ``scale * features + shift``."""
        factors = functional.leaky_relu(self.linears(code)).to(features.dtype)
        scale, shift = factors[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, features, scale)
