"""Wide residual networks for small images."""

from functools import partial
from typing import Any, Literal, Unpack, get_args

from torch import nn
from torch.nn import functional

from equipoise.models.attack_mode.structure import Structure, block_structures
from equipoise.models.backbones.common import (
    ACTIVATIONS,
    Normalise,
    PreActivationBlock,
    SharedSettings,
    check_images,
    initialise_convolutions,
    make_stages,
    shared_settings,
)
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Logits

Padding = Literal["both_sides", "one_side"]


class WideResNet(nn.Module):
    """WRN-``depth``-``width``: three stages of pre-activation blocks, then a linear layer.

    Args:
        depth: Number of layers as the paper counts them, 6 n + 4: 10, 16, 22, 28, 34, 40.
        width: Factor on the 16, 32 and 64 channels of the three stages.
        padding: Where convolutions that halve the image pad it: on ``"both_sides"``, or on
            ``"one_side"`` (right and below), as networks from TensorFlow and JAX do.
        shared: Settings that every backbone has; see ``SharedSettings``.

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
        padding: Padding = "both_sides",
        **shared: Unpack[SharedSettings],
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise InvalidInput(f"depth must be 6 n + 4 (10, 16, 22, 28, ...), got {depth}.")
        if width < 1:
            raise InvalidInput(f"width must be 1 or more, got {width}.")
        if padding not in get_args(Padding):
            raise InvalidInput(f"padding must be one of {get_args(Padding)}, got {padding!r}.")
        settings = shared_settings(**shared)
        self.config: dict[str, Any] = {
            "kind": "wide_resnet",
            "depth": depth,
            "width": width,
            **settings,
            "padding": padding,
        }
        unit, widest = ACTIVATIONS[settings["activation"]], 64 * width
        self.normalise = Normalise(settings["mean"], settings["std"])
        self.conv = nn.Conv2d(settings["channels"], 16, 3, padding=1, bias=False)
        self.stages = make_stages(
            [(depth - 4) // 6] * 3,
            16 * width,
            partial(PreActivationBlock, unit=unit, one_sided=padding == "one_side"),
            inputs=16,
        )
        self.norm = nn.BatchNorm2d(widest)
        self.activation = unit()
        self.linear = nn.Linear(widest, settings["classes"])
        self.channels: int = settings["channels"]
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
        blocks = block_structures(self.stages, PreActivationBlock)
        if blocks is None:
            return None
        return Structure(
            stem=(self.conv, None),
            blocks=blocks,
            final_norm=self.norm,
            activations=(self.activation,),
        )
