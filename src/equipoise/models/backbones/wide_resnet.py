"""Wide residual networks for small images."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn import functional

from equipoise.models.attack_mode.structure import BlockStructure, Structure, block_structures
from equipoise.models.backbones.common import (
    ACTIVATIONS,
    Activation,
    Normalise,
    check_images,
    initialise_convolutions,
    make_stages,
    shared_settings,
)
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Logits

Padding = Literal["both_sides", "one_side"]


class _Block(nn.Module):
    """A pre-activation block: twice norm, activation, 3x3 convolution, plus the shortcut.

    Where the shape changes, the shortcut is a convolution that reads the first activation.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, unit: type[nn.Module], padding: Padding
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.activation1 = unit()
        # Where it strides, TensorFlow's "SAME" pads an even image only on the right and below.
        self.pad = stride > 1 and padding == "one_side"
        self.conv1 = nn.Conv2d(
            inputs, outputs, 3, stride=stride, padding=0 if self.pad else 1, bias=False
        )
        self.norm2 = nn.BatchNorm2d(outputs)
        self.activation2 = unit()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            if inputs != outputs or stride != 1
            else None
        )

    def forward(self, features: Tensor) -> Tensor:
        active = self.activation1(self.norm1(features))
        shortcut = features if self.shortcut is None else self.shortcut(active)
        padded = functional.pad(active, [0, 1, 0, 1]) if self.pad else active
        hidden = self.activation2(self.norm2(self.conv1(padded)))
        return shortcut + self.conv2(hidden)

    def structure(self) -> BlockStructure:
        """Declare the layers."""
        return BlockStructure(
            entry_norm=self.norm1,
            convs=((self.conv1, self.norm2), (self.conv2, None)),
            shortcut=None if self.shortcut is None else (self.shortcut, None),
            final_relu=False,
            activations=(self.activation1, self.activation2),
        )


class WideResNet(nn.Module):
    """WRN-``depth``-``width``: three stages of pre-activation blocks, then a linear layer.

    Args:
        depth: Number of layers as the paper counts them, 6 n + 4: 10, 16, 22, 28, 34, 40.
        width: Factor on the 16, 32 and 64 channels of the three stages.
        classes: Number of classes, 2 or more.
        channels: Number of image channels.
        mean: Mean of the data for each channel, in [0, 1] pixel units; 0.5 by default.
        std: Standard deviation for each channel; 0.25 by default.
        activation: ``"relu"`` or ``"silu"``.
        padding: Where convolutions that halve the image pad it: on ``"both_sides"``, or on
            ``"one_side"`` (right and below), as networks from TensorFlow and JAX do.

    Shape:
        Images ``(batch, channels, height, width)`` in [0, 1], 8x8 or larger, to logits
        ``(batch, classes)``.

    Raises:
        ValueError: If the depth is not 6 n + 4, or another number is out of range; from
            ``forward``, if the images have another number of channels or are smaller than 8x8.

    Source:
        Zagoruyko and Komodakis 2016. The papers' WRN-28-10 and WRN-16-8. Unlike the TRADES file
        that most follow-up code copies, no unused sub-block is kept among the parameters.
        ``"one_side"`` with SiLU: Gowal et al. 2020 (2010.03593).

    Example:
        >>> import torch
        >>> network = WideResNet(depth=10, width=1, classes=10)
        >>> network(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
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
        activation: Activation = "relu",
        padding: Padding = "both_sides",
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise InvalidInput(f"depth must be 6 n + 4 (10, 16, 22, 28, ...), got {depth}.")
        if width < 1:
            raise InvalidInput(f"width must be 1 or more, got {width}.")
        if padding not in get_args(Padding):
            raise InvalidInput(f"padding must be one of {get_args(Padding)}, got {padding!r}.")
        settings = shared_settings(classes, channels, mean, std, activation)
        self.config: dict[str, Any] = {
            "kind": "wide_resnet",
            "depth": depth,
            "width": width,
            **settings,
            "padding": padding,
        }
        unit, widest = ACTIVATIONS[activation], 64 * width
        self.normalise = Normalise(settings["mean"], settings["std"])
        self.conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.stages = make_stages(
            [(depth - 4) // 6] * 3,
            16 * width,
            lambda inputs, outputs, stride: _Block(inputs, outputs, stride, unit, padding),
            inputs=16,
        )
        self.norm = nn.BatchNorm2d(widest)
        self.activation = unit()
        self.linear = nn.Linear(widest, classes)
        self.channels = channels
        initialise_convolutions(self)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Images) -> Logits:
        """Return the logits of images in [0, 1]."""
        check_images(images, self.channels)
        features = self.activation(self.norm(self.stages(self.conv(self.normalise(images)))))
        pooled = functional.adaptive_avg_pool2d(features, 1).flatten(1)
        return self.linear(pooled)

    def structure(self) -> Structure | None:
        """Declare the layers for batch-norm folding; ``None`` if they cannot be folded."""
        if self.config["activation"] != "relu" or self.config["padding"] != "both_sides":
            return None
        blocks = block_structures(self.stages, _Block)
        if blocks is None:
            return None
        return Structure(
            stem=(self.conv, None),
            blocks=blocks,
            final_norm=self.norm,
            activations=(self.activation,),
        )
