"""Wide residual networks for small images, with normalisation as their first layer."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from equipoise.losses import Logits
from equipoise.threat import Images

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}


class Normalise(nn.Module):
    """Subtract a mean and divide by a standard deviation, per channel.

    Args:
        mean: One number a channel, in [0, 1] pixel units.
        std: One positive number a channel.

    Shape:
        Input and output ``(batch, channel, height, width)``.

    Raises:
        ValueError: If the lengths differ or a deviation is not positive.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std, default=0.0) <= 0:
            raise ValueError(
                "mean and std must have one number for each channel, std above 0, "
                f"got {list(mean)} and {list(std)}."
            )
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None])

    def forward(self, images: Images) -> Images:
        """Normalised images."""
        return (images - self.mean) / self.std


class _Block(nn.Module):
    """norm, activation, 3x3, norm, activation, 3x3, plus the shortcut (after the first activation
    where the shape changes)."""

    def __init__(self, inside: int, outside: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inside)
        self.activation1 = activation()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.activation2 = activation()
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(inside, outside, 1, stride=stride, bias=False)
            if inside != outside or stride != 1
            else None
        )

    def forward(self, features: Tensor) -> Tensor:
        active = self.activation1(self.norm1(features))
        shortcut = features if self.shortcut is None else self.shortcut(active)
        hidden = self.activation2(self.norm2(self.conv1(active)))
        return shortcut + self.conv2(hidden)


class WideResNet(nn.Module):
    """WRN-``depth``-``width``: three stages of pre-activation blocks, then a linear layer.

    Args:
        depth: Layers in the paper's count, 6 n + 4: 10, 16, 22, 28, 34, 40.
        width: Factor on the 16, 32 and 64 channels of the three stages.
        classes: Number of classes, 2 or more.
        channels: 1 or 3 (or any other) image channels.
        mean: Per-channel mean of the data, [0, 1] pixel units; 0.5 by default.
        std: Per-channel deviation; 0.25 by default.
        activation: ``"relu"`` or ``"silu"``.

    Shape:
        Images ``(batch, channels, height, width)`` in [0, 1], 8x8 or larger, to logits
        ``(batch, classes)``.

    Raises:
        ValueError: If the depth is not 6 n + 4, or another number is out of range; from
            ``forward``, if the images have another channel count or are smaller than 8x8.

    Source:
        Zagoruyko and Komodakis 2016. The papers' WRN-28-10 and WRN-16-8. Unlike the TRADES file
        that most follow-up code copies, no unused sub-block is kept among the parameters.
    """

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        classes: int,
        channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        activation: Literal["relu", "silu"] = "relu",
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6 n + 4 (10, 16, 22, 28, ...), got {depth}.")
        if width < 1 or classes < 2 or channels < 1:
            raise ValueError(
                "width and channels must be 1 or more and classes 2 or more, "
                f"got {width}, {channels} and {classes}."
            )
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {list(ACTIVATIONS)}, got {activation!r}.")
        self.config: dict[str, Any] = {
            "kind": "wide_resnet",
            "depth": depth,
            "width": width,
            "classes": classes,
            "channels": channels,
            "mean": list(mean) if mean is not None else [0.5] * channels,
            "std": list(std) if std is not None else [0.25] * channels,
            "activation": activation,
        }
        if len(self.config["mean"]) != channels or len(self.config["std"]) != channels:
            raise ValueError(
                f"mean and std must have one number for each channel, {channels}, got "
                f"{self.config['mean']} and {self.config['std']}."
            )
        blocks, unit = (depth - 4) // 6, ACTIVATIONS[activation]
        sizes = [16, 16 * width, 32 * width, 64 * width]
        self.normalise = Normalise(self.config["mean"], self.config["std"])
        self.conv = nn.Conv2d(channels, sizes[0], 3, padding=1, bias=False)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    _Block(sizes[i], sizes[i + 1], 1 if i == 0 else 2, unit),
                    *(_Block(sizes[i + 1], sizes[i + 1], 1, unit) for _ in range(blocks - 1)),
                )
                for i in range(3)
            )
        )
        self.norm = nn.BatchNorm2d(sizes[3])
        self.activation = unit()
        self.linear = nn.Linear(sizes[3], classes)
        self.channels = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Images) -> Logits:
        """Logits of a batch of images in [0, 1]."""
        if images.shape[1] != self.channels or min(images.shape[2:]) < 8:
            raise ValueError(
                f"images must have {self.channels} channels and at least 8x8 pixels, got shape "
                f"{tuple(images.shape)}; convert the images or build the network with "
                f"channels={images.shape[1]}."
            )
        features = self.activation(self.norm(self.stages(self.conv(self.normalise(images)))))
        pooled = functional.adaptive_avg_pool2d(features, 1).flatten(1)
        return self.linear(pooled)
