"""AFA's weight generator: a small network that estimates how strongly an image was attacked."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class WeightGenerator(nn.Module):
    """Predict the fusing weight W0 of each image: near 1 for clean, near 0 for strongly attacked.

    Two Conv-BN-ReLU blocks, global average pooling, Linear-ReLU, Linear, sigmoid.

    Args:
        channels: Channels of the input.
        hidden: Channels of the convolutions and of the hidden linear layer.
        kernel: Kernel size of the convolutions; 1 for features that are already small.
        outputs: Number of weights for each image; 1 in the paper.

    Shape:
        ``(batch, channels, height, width)`` to ``(batch,)``, in (0, 1); with several outputs to
        ``(batch, outputs)``.

    Source:
        AFA Sec. 4.2, Fig. 5, Eq. (1). Deviation: the last linear layer has no ReLU, which would
        force W0 >= 0.5 and contradict Fig. 6. The paper gives no sizes.

    Example:
        >>> import torch
        >>> weight = WeightGenerator(channels=3)(torch.rand(4, 3, 8, 8))
        >>> weight.shape, bool(((weight > 0) & (weight < 1)).all())
        (torch.Size([4]), True)
    """

    def __init__(self, channels: int, hidden: int = 16, kernel: int = 3, outputs: int = 1) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            nn.Conv2d(channels, hidden, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
        )
        self.linears = nn.Sequential(
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
        )

    def forward(
        self, features: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch *outputs"]:
        """Return the fusing weight W0 of each image."""
        return torch.sigmoid(self.logit(features))

    def logit(
        self, features: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch *outputs"]:
        """Return W0 before the sigmoid, which attacks maximise because it does not saturate."""
        pooled = self.blocks(features).mean(dim=(2, 3))
        gate: Tensor = self.linears(pooled).squeeze(1)
        return gate if gate.dtype == torch.float64 else gate.float()
