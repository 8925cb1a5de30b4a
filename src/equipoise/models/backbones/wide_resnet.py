"""Wide residual networks for small images, with normalisation as their first layer."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn import functional

from equipoise.models.attack_mode.structure import BlockStructure, Structure, blocks_of
from equipoise.models.backbones.common import (
    ACTIVATIONS,
    Activation,
    Normalise,
    check_images,
    initialise_convolutions,
    input_settings,
)
from equipoise.types import Images, Logits

Padding = Literal["both_sides", "one_side"]


class _Block(nn.Module):
    """norm, activation, 3x3, norm, activation, 3x3, plus the shortcut (after the first activation
    where the shape changes)."""

    def __init__(
        self,
        inside: int,
        outside: int,
        stride: int,
        activation: type[nn.Module],
        padding: Padding,
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inside)
        self.activation1 = activation()
        # TensorFlow's "SAME" pads an even image on the right and below only where it strides.
        self.pad = stride > 1 and padding == "one_side"
        self.conv1 = nn.Conv2d(
            inside, outside, 3, stride=stride, padding=0 if self.pad else 1, bias=False
        )
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
        padded = functional.pad(active, [0, 1, 0, 1]) if self.pad else active
        hidden = self.activation2(self.norm2(self.conv1(padded)))
        return shortcut + self.conv2(hidden)

    def parts(self) -> BlockStructure:
        """What ``structure`` says of a block."""
        return BlockStructure(
            entry=self.norm1,
            convs=((self.conv1, self.norm2), (self.conv2, None)),
            shortcut=None if self.shortcut is None else (self.shortcut, None),
            exit=False,
            activations=(self.activation1, self.activation2),
        )


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
        padding: Where convolutions that halve the image pad it: on ``"both_sides"``, or on
            ``"one_side"``, right and below, as networks that came from TensorFlow or JAX do.

    Shape:
        Images ``(batch, channels, height, width)`` in [0, 1], 8x8 or larger, to logits
        ``(batch, classes)``.

    Raises:
        ValueError: If the depth is not 6 n + 4, or another number is out of range; from
            ``forward``, if the images have another channel count or are smaller than 8x8.

    Source:
        Zagoruyko and Komodakis 2016. The papers' WRN-28-10 and WRN-16-8. Unlike the TRADES file
        that most follow-up code copies, no unused sub-block is kept among the parameters.
        ``"one_side"`` with SiLU: Gowal et al. 2020 (2010.03593).
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
            raise ValueError(f"depth must be 6 n + 4 (10, 16, 22, 28, ...), got {depth}.")
        if width < 1:
            raise ValueError(f"width must be 1 or more, got {width}.")
        if padding not in get_args(Padding):
            raise ValueError(f"padding must be one of {get_args(Padding)}, got {padding!r}.")
        settings = input_settings(classes, channels, mean, std, activation)
        self.config: dict[str, Any] = {
            "kind": "wide_resnet",
            "depth": depth,
            "width": width,
            **settings,
            "padding": padding,
        }
        blocks, unit = (depth - 4) // 6, ACTIVATIONS[activation]
        sizes = [16, 16 * width, 32 * width, 64 * width]
        self.normalise = Normalise(settings["mean"], settings["std"])
        self.conv = nn.Conv2d(channels, sizes[0], 3, padding=1, bias=False)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    _Block(sizes[i], sizes[i + 1], 1 if i == 0 else 2, unit, padding),
                    *(
                        _Block(sizes[i + 1], sizes[i + 1], 1, unit, padding)
                        for _ in range(blocks - 1)
                    ),
                )
                for i in range(3)
            )
        )
        self.norm = nn.BatchNorm2d(sizes[3])
        self.activation = unit()
        self.linear = nn.Linear(sizes[3], classes)
        self.channels = channels
        initialise_convolutions(self)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Images) -> Logits:
        """Logits of a batch of images in [0, 1]."""
        check_images(images, self.channels)
        features = self.activation(self.norm(self.stages(self.conv(self.normalise(images)))))
        pooled = functional.adaptive_avg_pool2d(features, 1).flatten(1)
        return self.linear(pooled)

    def structure(self) -> Structure | None:
        """What folding batch norms needs to know; ``None`` where nothing is folded."""
        if self.config["activation"] != "relu" or self.config["padding"] != "both_sides":
            return None
        blocks = blocks_of(self.stages, _Block)
        if blocks is None:
            return None
        return Structure(
            stem=(self.conv, None),
            blocks=tuple(block.parts() for block in blocks),
            norm=self.norm,
            activations=(self.activation,),
        )
