"""ResNet-9: a shallow residual network that pools early, for training in minutes."""

from collections.abc import Sequence
from typing import Any, Literal, Unpack, get_args

from torch import Tensor, nn
from torch.nn import functional

from equipoise.models.backbones.common import (
    ACTIVATIONS,
    Normalise,
    SharedSettings,
    check_images,
    initialise_convolutions,
    shared_settings,
)
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Logits

Pooling = Literal["max", "average"]


class _ConvBlock(nn.Sequential):
    """A 3x3 convolution, 2x2 pooling if asked for, norm and activation."""

    def __init__(
        self, inputs: int, outputs: int, unit: type[nn.Module], pooling: Pooling | None = None
    ) -> None:
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
        if pooling is not None:
            layers.append(nn.MaxPool2d(2) if pooling == "max" else nn.AvgPool2d(2))
        super().__init__(*layers, nn.BatchNorm2d(outputs), unit())


class _Group(nn.Module):
    """A pooled convolution, then ``residual`` convolutions inside one shortcut."""

    def __init__(
        self, inputs: int, outputs: int, residual: int, unit: type[nn.Module], pooling: Pooling
    ) -> None:
        super().__init__()
        self.entry = _ConvBlock(inputs, outputs, unit, pooling)
        blocks = [_ConvBlock(outputs, outputs, unit) for _ in range(residual)]
        self.residual = nn.Sequential(*blocks) if blocks else None

    def forward(self, features: Tensor) -> Tensor:
        features = self.entry(features)
        return features if self.residual is None else features + self.residual(features)


class ResNet9(nn.Module):
    """ResNet-9: a stem, three groups that each halve the image, global pooling, a linear layer.

    A group is a 3x3 convolution, 2x2 pooling, norm and activation, followed by residual
    convolutions. Most of the work is done at 16x16 and below, so a training step costs a fraction
    of that of a wide ResNet of the same accuracy.

    Args:
        widths: Channels of the stem and of the three groups.
        residual: Convolutions inside the shortcut of each group, 0 for none.
        pooling: 2x2 pooling in the groups: ``"max"`` or ``"average"``.
        shared: Settings that every backbone has; see ``SharedSettings``.

    Shape:
        Images ``(batch, channels, height, width)`` in [0, 1], 8x8 or larger, to logits
        ``(batch, classes)``.

    Raises:
        ValueError: If a setting is out of range; from ``forward``, if the images have another
            number of channels or are smaller than 8x8.

    Source:
        The network of Coleman et al. 2017 and Page 2019 for DAWNBench, which has the default
        widths and residual convolutions. Deviations: every group pools before its norm, and the
        last pooling is a global average without a factor on the logits.

    Example:
        >>> import torch
        >>> network = ResNet9(classes=10, widths=(4, 8, 8, 16), residual=(1, 1, 1))
        >>> network(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (64, 128, 256, 512),
        residual: Sequence[int] = (2, 0, 2),
        pooling: Pooling = "max",
        **shared: Unpack[SharedSettings],
    ) -> None:
        super().__init__()
        if len(widths) != 4 or min(widths) < 1:
            raise InvalidInput(
                "widths must be four numbers of channels, of the stem and of three groups, 1 or "
                f"more each, got {tuple(widths)}."
            )
        if len(residual) != 3 or min(residual) < 0:
            raise InvalidInput(
                "residual must be three numbers of convolutions, 0 or more each, got "
                f"{tuple(residual)}."
            )
        if pooling not in get_args(Pooling):
            raise InvalidInput(f"pooling must be one of {get_args(Pooling)}, got {pooling!r}.")
        settings = shared_settings(**shared)
        self.config: dict[str, Any] = {
            "kind": "resnet9",
            **settings,
            "widths": tuple(widths),
            "residual": tuple(residual),
            "pooling": pooling,
        }
        unit = ACTIVATIONS[settings["activation"]]
        self.normalise = Normalise(settings["mean"], settings["std"])
        self.stem = _ConvBlock(settings["channels"], widths[0], unit)
        self.groups = nn.Sequential(
            *(
                _Group(widths[number], widths[number + 1], residual[number], unit, pooling)
                for number in range(3)
            )
        )
        self.linear = nn.Linear(widths[-1], settings["classes"])
        self.channels = settings["channels"]
        initialise_convolutions(self)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Images) -> Logits:
        """Return the logits of images in [0, 1]."""
        check_images(images, self.channels)
        features = self.groups(self.stem(self.normalise(images)))
        pooled = functional.adaptive_avg_pool2d(features, 1).flatten(1)
        return self.linear(pooled)
