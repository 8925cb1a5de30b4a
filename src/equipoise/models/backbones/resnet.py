"""Residual networks with post-activation blocks: ResNet-18, -34 and -50."""

from functools import partial
from typing import Any, Literal, Unpack, get_args

from torch import Tensor, nn
from torch.nn import functional

from equipoise.models.attack_mode.structure import BlockStructure, Structure, block_structures
from equipoise.models.backbones.common import (
    ACTIVATIONS,
    Normalise,
    SharedSettings,
    check_images,
    initialise_convolutions,
    make_stages,
    shared_settings,
)
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Logits

Stem = Literal["small", "imagenet"]
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Number of blocks in each stage, by depth; depth 50 has bottleneck blocks."""


class _Block(nn.Module):
    """A post-activation block.

    Two 3x3 convolutions, or a 3x3 between two 1x1, each with its norm; the last activation follows
    the sum.
    """

    def __init__(
        self, inputs: int, width: int, stride: int, unit: type[nn.Module], bottleneck: bool
    ) -> None:
        super().__init__()
        outputs = 4 * width if bottleneck else width
        # (inputs, outputs, size, stride) of each convolution; a bottleneck strides in its 3x3.
        shapes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            shapes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, size, stride=step, padding=size // 2, bias=False)
            for a, b, size, step in shapes
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b, _, _ in shapes)
        self.activations = nn.ModuleList(unit() for _ in shapes)
        self.shortcut = (
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
            if inputs != outputs or stride != 1
            else None
        )

    def forward(self, features: Tensor) -> Tensor:
        hidden = features
        for number, conv in enumerate(self.convs):
            hidden = self.norms[number](conv(hidden))
            if number < len(self.convs) - 1:
                hidden = self.activations[number](hidden)
        shortcut = features if self.shortcut is None else self.shortcut(features)
        return self.activations[-1](hidden + shortcut)

    def structure(self) -> BlockStructure | None:
        """Declare the layers; ``None`` if the shortcut has been replaced."""
        shortcut: Any = self.shortcut
        if shortcut is not None and (type(shortcut) is not nn.Sequential or len(shortcut) != 2):
            return None
        pairs: Any = zip(self.convs, self.norms, strict=True)
        return BlockStructure(
            convs=tuple(pairs),
            shortcut=None if shortcut is None else (shortcut[0], shortcut[1]),
            final_relu=True,
            activations=tuple(self.activations),
        )


class ResNet(nn.Module):
    """ResNet-18, -34 or -50: four stages of post-activation blocks, then a linear layer.

    Args:
        depth: 18, 34 or 50.
        stem: ``"small"`` is one 3x3 convolution, for images of 32 or 64 pixels; ``"imagenet"`` is a
            7x7 convolution of stride 2 and a 3x3 max pooling of stride 2.
        width: Channels of the stem and the first stage; each stage has twice those before it.
        shared: Settings that every backbone has; see ``SharedSettings``.

    Shape:
        Images ``(batch, channels, height, width)`` in [0, 1], 8x8 or larger, to logits
        ``(batch, classes)``.

    Raises:
        ValueError: If a setting is out of range; from ``forward``, if the images have another
            number of channels or are smaller than 8x8.

    Source:
        He et al. 2016 (1512.03385). AFA's surrogates of Table 3 and Fig. 6. Deviation, as in all
        current code: a bottleneck's stride is in its 3x3 convolution.

    Example:
        >>> import torch
        >>> network = ResNet(depth=18, classes=10, width=4)
        >>> network(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        depth: int,
        stem: Stem = "small",
        width: int = 64,
        **shared: Unpack[SharedSettings],
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise InvalidInput(f"depth must be one of {list(DEPTHS)}, got {depth}.")
        if stem not in get_args(Stem):
            raise InvalidInput(f"stem must be one of {get_args(Stem)}, got {stem!r}.")
        if width < 1:
            raise InvalidInput(f"width must be 1 or more, got {width}.")
        settings = shared_settings(**shared)
        self.config: dict[str, Any] = {
            "kind": "resnet",
            "depth": depth,
            **settings,
            "stem": stem,
            "width": width,
        }
        unit, bottleneck, large = (
            ACTIVATIONS[settings["activation"]],
            depth == 50,
            stem == "imagenet",
        )
        size, stride = (7, 2) if large else (3, 1)
        expansion = 4 if bottleneck else 1
        self.normalise = Normalise(settings["mean"], settings["std"])
        self.conv = nn.Conv2d(
            settings["channels"], width, size, stride=stride, padding=size // 2, bias=False
        )
        self.norm = nn.BatchNorm2d(width)
        self.activation = unit()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        self.stages = make_stages(
            DEPTHS[depth],
            width,
            partial(_Block, unit=unit, bottleneck=bottleneck),
            inputs=width,
            expansion=expansion,
        )
        self.linear = nn.Linear(8 * width * expansion, settings["classes"])
        self.channels: int = settings["channels"]
        initialise_convolutions(self)

    def forward(self, images: Images) -> Logits:
        """Return the logits of images in [0, 1]."""
        check_images(images, self.channels)
        stem = self.pool(self.activation(self.norm(self.conv(self.normalise(images)))))
        pooled = functional.adaptive_avg_pool2d(self.stages(stem), 1).flatten(1)
        return self.linear(pooled)

    def structure(self) -> Structure | None:
        """Declare the layers for batch-norm folding; ``None`` if they cannot be folded."""
        if self.config["activation"] != "relu" or self.config["stem"] != "small":
            return None
        blocks = block_structures(self.stages, _Block)
        if blocks is None or type(self.pool) is not nn.Identity:
            return None
        return Structure(stem=(self.conv, self.norm), blocks=blocks, activations=(self.activation,))
