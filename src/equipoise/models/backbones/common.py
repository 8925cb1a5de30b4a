"""Parts that all backbones share: checked settings, input normalisation, activations, stages."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Required, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from equipoise.models.attack_mode.structure import BlockStructure
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images

Activation = Literal["relu", "silu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}


class Normalise(nn.Module):
    """Subtract a mean and divide by a standard deviation, per channel.

    It is the first layer of every backbone, so that images and epsilons stay in [0, 1] pixel units.

    Args:
        mean: Mean of each channel, in [0, 1] pixel units.
        std: Standard deviation of each channel, positive.

    Shape:
        Input and output ``(batch, channel, height, width)``.

    Raises:
        ValueError: If the lengths differ or a deviation is not positive.

    Example:
        >>> import torch
        >>> normalise = Normalise(mean=[0.5], std=[0.25])
        >>> normalise(torch.ones(1, 1, 1, 1)).item()
        2.0
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std, default=0.0) <= 0:
            raise InvalidInput(
                "mean and std must have one number for each channel, std above 0, "
                f"got {list(mean)} and {list(std)}."
            )
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None])

    def forward(self, images: Images) -> Images:
        """Return normalised images."""
        return (images - self.mean) / self.std


class SharedSettings(TypedDict, total=False):
    """Keyword arguments of every backbone; ``shared_settings`` checks them.

    Attributes:
        classes: Number of classes, 2 or more.
        channels: Number of image channels, 1 or more; 3 by default.
        mean: Mean of the data for each channel, in [0, 1] pixel units; 0.5 by default.
        std: Standard deviation for each channel; 0.25 by default.
        activation: ``"relu"``, the default, or ``"silu"``.
    """

    classes: Required[int]
    channels: int
    mean: Sequence[float] | None
    std: Sequence[float] | None
    activation: Activation


def shared_settings(
    *,
    classes: int,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    activation: str = "relu",
) -> dict[str, Any]:
    """Check the settings that all backbones have and fill in their defaults.

    Returns:
        The settings by name, as a backbone's ``config`` lists them.

    Raises:
        ValueError: If a number is out of range or the activation is unknown.
    """
    if classes < 2 or channels < 1:
        raise InvalidInput(
            f"channels must be 1 or more and classes 2 or more, got {channels} and {classes}."
        )
    if activation not in ACTIVATIONS:
        raise InvalidInput(f"activation must be one of {list(ACTIVATIONS)}, got {activation!r}.")
    settings: dict[str, Any] = {
        "classes": classes,
        "channels": channels,
        "mean": list(mean) if mean is not None else [0.5] * channels,
        "std": list(std) if std is not None else [0.25] * channels,
        "activation": activation,
    }
    if len(settings["mean"]) != channels or len(settings["std"]) != channels:
        raise InvalidInput(
            f"mean and std must have one number for each channel ({channels}), got "
            f"{settings['mean']} and {settings['std']}."
        )
    return settings


def check_images(images: Images, channels: int) -> None:
    """Reject images that do not fit a backbone.

    Raises:
        ValueError: If they have another number of channels or are smaller than 8x8.
    """
    if images.shape[1] != channels or min(images.shape[2:]) < 8:
        raise InvalidInput(
            f"images must have {channels} channels and at least 8x8 pixels, got shape "
            f"{tuple(images.shape)}; convert the images or build the network with "
            f"channels={images.shape[1]}."
        )


def make_stages(
    depths: Sequence[int],
    width: int,
    make_block: Callable[[int, int, int], nn.Module],
    *,
    inputs: int,
    expansion: int = 1,
) -> nn.Sequential:
    """Build the stages of a ResNet; all but the first halve the image in their first block.

    Args:
        depths: Number of blocks in each stage.
        width: Channels of the first stage's convolutions; each stage has twice those before it.
        make_block: Called with a block's input channels, the channels of its convolutions and its
            stride.
        inputs: Channels of the stem.
        expansion: Output channels of a block for each channel of its convolutions.
    """
    stages = []
    for stage, depth in enumerate(depths):
        blocks = []
        for number in range(depth):
            stride = 2 if number == 0 and stage > 0 else 1
            blocks.append(make_block(inputs, width * 2**stage, stride))
            inputs = width * 2**stage * expansion
        stages.append(nn.Sequential(*blocks))
    return nn.Sequential(*stages)


class PreActivationBlock(nn.Module):
    """A pre-activation block: twice norm, activation, 3x3 convolution, plus the shortcut.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        stride: Stride of the first convolution.
        unit: Activation.
        raw_shortcut: Whether a convolution on the shortcut reads the block's input itself, and not
            its first activation.
        one_sided: Whether a convolution that strides pads the image on the right and below alone,
            as TensorFlow's "SAME" does for an even size.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        unit: type[nn.Module],
        *,
        raw_shortcut: bool = False,
        one_sided: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.activation1 = unit()
        self.pad = stride > 1 and one_sided
        self.conv1 = nn.Conv2d(
            inputs, outputs, 3, stride=stride, padding=0 if self.pad else 1, bias=False
        )
        self.norm2 = nn.BatchNorm2d(outputs)
        self.activation2 = unit()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.raw_shortcut = raw_shortcut
        self.shortcut = (
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            if inputs != outputs or stride != 1
            else None
        )

    def extra_repr(self) -> str:
        """Show what the shortcut reads: blocks that differ in it compute different things."""
        return f"raw_shortcut={self.raw_shortcut}"

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's output."""
        active = self.activation1(self.norm1(features))
        shortcut = features
        if self.shortcut is not None:
            shortcut = self.shortcut(features if self.raw_shortcut else active)
        padded = functional.pad(active, [0, 1, 0, 1]) if self.pad else active
        hidden = self.activation2(self.norm2(self.conv1(padded)))
        return shortcut + self.conv2(hidden)

    def structure(self) -> BlockStructure:
        """Declare the layers."""
        return BlockStructure(
            entry_norm=self.norm1,
            convs=((self.conv1, self.norm2), (self.conv2, None)),
            shortcut=None if self.shortcut is None else (self.shortcut, None),
            activated_shortcut=not self.raw_shortcut,
            final_relu=False,
            activations=(self.activation1, self.activation2),
        )


def initialise_convolutions(network: nn.Module) -> None:
    """Draw every convolution's weights from He et al.'s normal distribution, by its outputs.

    Source:
        He et al. 2015 (1502.01852), in the variant of the reference code of ResNets and wide
        ResNets.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
