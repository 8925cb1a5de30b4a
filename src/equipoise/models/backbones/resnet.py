"""Residual networks, post- and pre-activation, with normalisation as their first layer."""

from collections.abc import Callable, Sequence
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

Stem = Literal["small", "imagenet"]
Shortcut = Literal["activated", "raw"]
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Blocks of each stage, by depth; those of 50 are bottlenecks."""


class _Block(nn.Module):
    """Two 3x3 convolutions, or a 3x3 between two 1x1, each with its norm; activation after the
    sum."""

    def __init__(
        self, inside: int, width: int, stride: int, unit: type[nn.Module], bottleneck: bool
    ) -> None:
        super().__init__()
        outside = 4 * width if bottleneck else width
        # (inputs, outputs, size, stride) of each convolution; a bottleneck strides in its 3x3.
        shapes = [(inside, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            shapes = [(inside, width, 1, 1), (width, width, 3, stride), (width, outside, 1, 1)]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, size, stride=step, padding=size // 2, bias=False)
            for a, b, size, step in shapes
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b, _, _ in shapes)
        self.activations = nn.ModuleList(unit() for _ in shapes)
        self.shortcut = (
            nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride=stride, bias=False), nn.BatchNorm2d(outside)
            )
            if inside != outside or stride != 1
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

    def parts(self) -> BlockStructure:
        """What ``structure`` says of a block."""
        shortcut: Any = self.shortcut
        pairs: Any = zip(self.convs, self.norms, strict=True)
        return BlockStructure(
            convs=tuple(pairs),
            shortcut=None if shortcut is None else (shortcut[0], shortcut[1]),
            exit=True,
            activations=tuple(self.activations),
        )


class ResNet(nn.Module):
    """ResNet-18, -34 or -50: four stages of post-activation blocks, then a linear layer.

    Args:
        depth: 18, 34 or 50.
        classes: Number of classes, 2 or more.
        channels: Image channels.
        mean: Per-channel mean of the data, [0, 1] pixel units; 0.5 by default.
        std: Per-channel deviation; 0.25 by default.
        activation: ``"relu"`` or ``"silu"``.
        stem: ``"small"``: one 3x3 convolution, for images of 32 or 64 pixels. ``"imagenet"``: a 7x7
            one of stride 2 and a 3x3 max pooling of stride 2.
        width: Channels of the stem and the first stage; each stage has twice those before it.

    Shape:
        Images ``(batch, channels, height, width)`` in [0, 1], 8x8 or larger, to logits
        ``(batch, classes)``.

    Raises:
        ValueError: If a setting is out of range; from ``forward``, if the images have another
            channel count or are smaller than 8x8.

    Source:
        He et al. 2016 (1512.03385). AFA's surrogates of Table 3 and Fig. 6. Deviation, as in all
        current code: a bottleneck's stride is in its 3x3 convolution.
    """

    def __init__(
        self,
        *,
        depth: int,
        classes: int,
        channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        activation: Activation = "relu",
        stem: Stem = "small",
        width: int = 64,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"depth must be one of {list(BLOCKS)}, got {depth}.")
        if stem not in get_args(Stem):
            raise ValueError(f"stem must be one of {get_args(Stem)}, got {stem!r}.")
        if width < 1:
            raise ValueError(f"width must be 1 or more, got {width}.")
        settings = input_settings(classes, channels, mean, std, activation)
        self.config: dict[str, Any] = {
            "kind": "resnet",
            "depth": depth,
            **settings,
            "stem": stem,
            "width": width,
        }
        unit, bottleneck = ACTIVATIONS[activation], depth == 50
        large = stem == "imagenet"
        self.normalise = Normalise(settings["mean"], settings["std"])
        self.conv = (
            nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
            if large
            else nn.Conv2d(channels, width, 3, padding=1, bias=False)
        )
        self.norm = nn.BatchNorm2d(width)
        self.activation = unit()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        expansion = 4 if bottleneck else 1
        self.stages = _stages(
            BLOCKS[depth],
            width,
            expansion,
            lambda inside, inner, stride: _Block(inside, inner, stride, unit, bottleneck),
        )
        self.linear = nn.Linear(8 * width * expansion, classes)
        self.channels = channels
        initialise_convolutions(self)

    def forward(self, images: Images) -> Logits:
        """Logits of a batch of images in [0, 1]."""
        check_images(images, self.channels)
        stem = self.pool(self.activation(self.norm(self.conv(self.normalise(images)))))
        pooled = functional.adaptive_avg_pool2d(self.stages(stem), 1).flatten(1)
        return self.linear(pooled)

    def structure(self) -> Structure | None:
        """What folding batch norms needs to know; ``None`` where nothing is folded."""
        if self.config["activation"] != "relu" or self.config["stem"] != "small":
            return None
        blocks = blocks_of(self.stages, _Block)
        if blocks is None or type(self.pool) is not nn.Identity:
            return None
        if not all(block.shortcut is None or _is_pair(block.shortcut) for block in blocks):
            return None
        return Structure(
            stem=(self.conv, self.norm),
            blocks=tuple(block.parts() for block in blocks),
            activations=(self.activation,),
        )


class _PreActBlock(nn.Module):
    """norm, activation, 3x3, norm, activation, 3x3, plus the shortcut."""

    def __init__(
        self, inside: int, outside: int, stride: int, unit: type[nn.Module], reads: Shortcut
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inside)
        self.activation1 = unit()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.activation2 = unit()
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.reads = reads
        self.shortcut = (
            nn.Conv2d(inside, outside, 1, stride=stride, bias=False)
            if inside != outside or stride != 1
            else None
        )

    def extra_repr(self) -> str:
        """What the shortcut reads: two blocks that differ in it compute different things."""
        return f"reads={self.reads!r}"

    def forward(self, features: Tensor) -> Tensor:
        active = self.activation1(self.norm1(features))
        hidden = self.conv2(self.activation2(self.norm2(self.conv1(active))))
        if self.shortcut is None:
            return hidden + features
        return hidden + self.shortcut(active if self.reads == "activated" else features)

    def parts(self) -> BlockStructure:
        """What ``structure`` says of a block."""
        return BlockStructure(
            entry=self.norm1,
            convs=((self.conv1, self.norm2), (self.conv2, None)),
            shortcut=None if self.shortcut is None else (self.shortcut, None),
            reads_active=self.reads == "activated",
            exit=False,
            activations=(self.activation1, self.activation2),
        )


class PreActResNet(nn.Module):
    """PreActResNet-18: four stages of pre-activation blocks, norm, activation, a linear layer.

    Args:
        depth: 18 or 34.
        classes: Number of classes, 2 or more.
        channels: Image channels.
        mean: Per-channel mean of the data, [0, 1] pixel units; 0.5 by default.
        std: Per-channel deviation; 0.25 by default.
        activation: ``"relu"`` or ``"silu"``.
        shortcut: What a convolution on a shortcut reads: the block's ``"activated"`` input, or the
            ``"raw"`` one. Public weights exist for both.
        final_norm: A norm and an activation before the pooling. Some public weights lack them.
        width: Channels of the stem and the first stage; each stage has twice those before it.

    Shape:
        Images ``(batch, channels, height, width)`` in [0, 1], 8x8 or larger, to logits
        ``(batch, classes)``.

    Raises:
        ValueError: If a setting is out of range; from ``forward``, if the images have another
            channel count or are smaller than 8x8.

    Source:
        He et al. 2016 (1603.05027); the defaults are those of Rice et al. 2020 (2002.11569), whose
        PreActResNet-18 AFS's authors' code trains. Wong et al. 2020 (2001.03994): ``"raw"`` and no
        final norm.
    """

    def __init__(
        self,
        *,
        depth: int = 18,
        classes: int,
        channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        activation: Activation = "relu",
        shortcut: Shortcut = "activated",
        final_norm: bool = True,
        width: int = 64,
    ) -> None:
        super().__init__()
        if depth not in (18, 34):
            raise ValueError(f"depth must be 18 or 34, got {depth}.")
        if shortcut not in get_args(Shortcut):
            raise ValueError(f"shortcut must be one of {get_args(Shortcut)}, got {shortcut!r}.")
        if width < 1:
            raise ValueError(f"width must be 1 or more, got {width}.")
        settings = input_settings(classes, channels, mean, std, activation)
        self.config: dict[str, Any] = {
            "kind": "preact_resnet",
            "depth": depth,
            **settings,
            "shortcut": shortcut,
            "final_norm": final_norm,
            "width": width,
        }
        unit = ACTIVATIONS[activation]
        self.normalise = Normalise(settings["mean"], settings["std"])
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.stages = _stages(
            BLOCKS[depth],
            width,
            1,
            lambda inside, outside, stride: _PreActBlock(inside, outside, stride, unit, shortcut),
        )
        self.norm = nn.BatchNorm2d(8 * width) if final_norm else nn.Identity()
        self.activation = unit() if final_norm else nn.Identity()
        self.linear = nn.Linear(8 * width, classes)
        self.channels = channels
        initialise_convolutions(self)

    def forward(self, images: Images) -> Logits:
        """Logits of a batch of images in [0, 1]."""
        check_images(images, self.channels)
        features = self.activation(self.norm(self.stages(self.conv(self.normalise(images)))))
        pooled = functional.adaptive_avg_pool2d(features, 1).flatten(1)
        return self.linear(pooled)

    def structure(self) -> Structure | None:
        """What folding batch norms needs to know; ``None`` where nothing is folded."""
        if self.config["activation"] != "relu":
            return None
        blocks, last = blocks_of(self.stages, _PreActBlock), bool(self.config["final_norm"])
        if blocks is None:
            return None
        return Structure(
            stem=(self.conv, None),
            blocks=tuple(block.parts() for block in blocks),
            norm=self.norm if last else None,
            activations=(self.activation,) if last else (),
        )


def _is_pair(shortcut: nn.Module) -> bool:
    return type(shortcut) is nn.Sequential and len(shortcut) == 2


def _stages(
    blocks: Sequence[int], width: int, expansion: int, make: Callable[[int, int, int], nn.Module]
) -> nn.Sequential:
    """Four stages; all but the first halve the image in their first block."""
    inside, stages = width, []
    for stage, count in enumerate(blocks):
        made = []
        for number in range(count):
            made.append(make(inside, width * 2**stage, 2 if number == 0 and stage > 0 else 1))
            inside = width * 2**stage * expansion
        stages.append(nn.Sequential(*made))
    return nn.Sequential(*stages)
