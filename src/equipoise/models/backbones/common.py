"""What all backbones share: checked settings, normalisation as their first layer, activations."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from equipoise.types import Images

Activation = Literal["relu", "silu"]
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


def input_settings(
    classes: int,
    channels: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    activation: str,
) -> dict[str, Any]:
    """The part of a backbone's configuration that is the same for all, checked.

    Args:
        classes: Number of classes, 2 or more.
        channels: Image channels, 1 or more.
        mean: Per-channel mean of the data, [0, 1] pixel units; 0.5 by default.
        std: Per-channel deviation; 0.25 by default.
        activation: ``"relu"`` or ``"silu"``.

    Returns:
        The settings, with means and deviations filled in.

    Raises:
        ValueError: If a number is out of range or the activation is unknown.
    """
    if classes < 2 or channels < 1:
        raise ValueError(
            f"channels must be 1 or more and classes 2 or more, got {channels} and {classes}."
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {list(ACTIVATIONS)}, got {activation!r}.")
    settings: dict[str, Any] = {
        "classes": classes,
        "channels": channels,
        "mean": list(mean) if mean is not None else [0.5] * channels,
        "std": list(std) if std is not None else [0.25] * channels,
        "activation": activation,
    }
    if len(settings["mean"]) != channels or len(settings["std"]) != channels:
        raise ValueError(
            f"mean and std must have one number for each channel, {channels}, got "
            f"{settings['mean']} and {settings['std']}."
        )
    return settings


def check_images(images: Images, channels: int) -> None:
    """Refuse images that a backbone was not built for.

    Raises:
        ValueError: If they have another channel count or are smaller than 8x8.
    """
    if images.shape[1] != channels or min(images.shape[2:]) < 8:
        raise ValueError(
            f"images must have {channels} channels and at least 8x8 pixels, got shape "
            f"{tuple(images.shape)}; convert the images or build the network with "
            f"channels={images.shape[1]}."
        )


def initialise_convolutions(network: nn.Module) -> None:
    """He et al.'s normal initialisation of every convolution, by its outputs.

    Source:
        He et al. 2015 (1502.01852), as the reference code of ResNets and wide ResNets has it.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
