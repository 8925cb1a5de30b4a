"""AFA's weight generator: a small network that tells how strongly an image was attacked."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class WeightGenerator(nn.Module):
    """Predict the fusing weight W0 of each image: near 1 for clean, near 0 for strongly attacked.

    Two Conv-BN-ReLU blocks, global average pooling, Linear-ReLU, Linear, sigmoid.

    Args:
        channels: Channels of its input.
        hidden: Channels of its convolutions and of its hidden linear layer.
        kernel: Size of its convolutions; 1 for features that are already small.
        outputs: Weights an image; the paper's is 1.

    Shape:
        ``(batch, channels, height, width)`` to ``(batch,)``, in (0, 1); with several outputs to
        ``(batch, outputs)``.

    Source:
        AFA Sec. 4.2, Fig. 5, Eq. (1). Deviation: the last linear layer has no ReLU, which would
        force W0 >= 0.5 and contradict Fig. 6. The paper gives no sizes.
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
        """The fusing weight W0 of each image."""
        return torch.sigmoid(self.logit(features))

    def logit(
        self, features: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch *outputs"]:
        """W0 before the sigmoid: an attack on the gate climbs this, which does not saturate."""
        pooled = self.blocks(features).mean(dim=(2, 3))
        return self.linears(pooled).squeeze(1).float()
