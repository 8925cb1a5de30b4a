"""Residual networks with pre-activation blocks: PreActResNet-18 and -34."""

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

Shortcut = Literal["activated", "raw"]
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Number of blocks in each stage, by depth."""


class PreActResNet(nn.Module):
    """PreActResNet-18 or -34: four stages of pre-activation blocks, a norm, then a linear layer.

    Args:
        depth: 18 or 34.
        shortcut: What a convolution on a shortcut reads: the block's ``"activated"`` input, or the
            ``"raw"`` one. Published weights exist for both.
        final_norm: Whether a norm and an activation precede the pooling. Some published weights
            lack them.
        width: Channels of the stem and the first stage; each stage has twice those before it.
        shared: Settings that every backbone has; see ``SharedSettings``.

    Shape:
        Images ``(batch, channels, height, width)`` in [0, 1], 8x8 or larger, to logits
        ``(batch, classes)``.

    Raises:
        ValueError: If a setting is out of range; from ``forward``, if the images have another
            number of channels or are smaller than 8x8.

    Source:
        He et al. 2016 (1603.05027). The defaults are those of Rice et al. 2020 (2002.11569), whose
        PreActResNet-18 AFS's authors' code trains. Wong et al. 2020 (2001.03994) use ``"raw"`` and
        no final norm.

    Example:
        >>> import torch
        >>> network = PreActResNet(classes=10, width=4)
        >>> network(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        depth: int = 18,
        shortcut: Shortcut = "activated",
        final_norm: bool = True,
        width: int = 64,
        **shared: Unpack[SharedSettings],
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise InvalidInput(f"depth must be 18 or 34, got {depth}.")
        if shortcut not in get_args(Shortcut):
            raise InvalidInput(f"shortcut must be one of {get_args(Shortcut)}, got {shortcut!r}.")
        if width < 1:
            raise InvalidInput(f"width must be 1 or more, got {width}.")
        settings = shared_settings(**shared)
        self.config: dict[str, Any] = {
            "kind": "preact_resnet",
            "depth": depth,
            **settings,
            "shortcut": shortcut,
            "final_norm": final_norm,
            "width": width,
        }
        unit = ACTIVATIONS[settings["activation"]]
        self.normalise = Normalise(settings["mean"], settings["std"])
        self.conv = nn.Conv2d(settings["channels"], width, 3, padding=1, bias=False)
        self.stages = make_stages(
            DEPTHS[depth],
            width,
            partial(PreActivationBlock, unit=unit, raw_shortcut=shortcut == "raw"),
            inputs=width,
        )
        self.norm = nn.BatchNorm2d(8 * width) if final_norm else nn.Identity()
        self.activation = unit() if final_norm else nn.Identity()
        self.linear = nn.Linear(8 * width, settings["classes"])
        self.channels: int = settings["channels"]
        initialise_convolutions(self)

    def forward(self, images: Images) -> Logits:
        """Return the logits of images in [0, 1]."""
        check_images(images, self.channels)
        features = self.activation(self.norm(self.stages(self.conv(self.normalise(images)))))
        pooled = functional.adaptive_avg_pool2d(features, 1).flatten(1)
        return self.linear(pooled)

    def structure(self) -> Structure | None:
        """Declare the layers for batch-norm folding; ``None`` if they cannot be folded."""
        blocks = block_structures(self.stages, PreActivationBlock)
        if blocks is None or self.config["activation"] != "relu":
            return None
        final = bool(self.config["final_norm"])
        return Structure(
            stem=(self.conv, None),
            blocks=blocks,
            final_norm=self.norm if final else None,
            activations=(self.activation,) if final else (),
        )
