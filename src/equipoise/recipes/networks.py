"""Backbones as frozen dataclasses that a recipe stores."""

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from torch import nn

from equipoise.data import DataSet
from equipoise.models import PreActResNet, ResNet, ResNet9, WideResNet
from equipoise.models.io.external import import_network, load_weights
from equipoise.runtime.errors import InvalidInput
from equipoise.runtime.json_argument import JsonObject
from equipoise.runtime.trust import matching_arguments
from equipoise.training.stage import MakeNetwork


@dataclass(frozen=True, kw_only=True)
class WideResNetShape:
    """Wide ResNet; its channels and classes come from the data.

    Args:
        depth: Depth, 6 n + 4.
        width: Width factor.
        activation: Activation function, ``"relu"`` or ``"silu"``.
    """

    depth: int
    width: int
    activation: Literal["relu", "silu"] = "relu"

    def maker(self, dataset: DataSet) -> MakeNetwork:
        """Return a function that makes a fresh network for a data set."""
        return partial(
            WideResNet, **asdict(self), classes=dataset.classes, channels=dataset.channels
        )


@dataclass(frozen=True, kw_only=True)
class ResNetShape:
    """ResNet; its channels and classes come from the data.

    Args:
        depth: Depth: 18, 34 or 50.
        activation: Activation function, ``"relu"`` or ``"silu"``.
        stem: ``"small"``, or ``"imagenet"`` for images of 100 pixels a side and more.
        width: Channels of the first stage.
    """

    depth: int
    activation: Literal["relu", "silu"] = "relu"
    stem: Literal["small", "imagenet"] = "small"
    width: int = 64

    def maker(self, dataset: DataSet) -> MakeNetwork:
        """Return a function that makes a fresh network for a data set."""
        return partial(ResNet, **asdict(self), classes=dataset.classes, channels=dataset.channels)


@dataclass(frozen=True, kw_only=True)
class PreActResNetShape:
    """Pre-activation ResNet; its channels and classes come from the data.

    Args:
        depth: Depth: 18 or 34.
        activation: Activation function, ``"relu"`` or ``"silu"``.
        width: Channels of the first stage.
    """

    depth: int = 18
    activation: Literal["relu", "silu"] = "relu"
    width: int = 64

    def maker(self, dataset: DataSet) -> MakeNetwork:
        """Return a function that makes a fresh network for a data set."""
        return partial(
            PreActResNet, **asdict(self), classes=dataset.classes, channels=dataset.channels
        )


@dataclass(frozen=True, kw_only=True)
class ResNet9Shape:
    """ResNet-9; its channels and classes come from the data.

    Args:
        widths: Channels of the stem and of the three groups.
        residual: Convolutions inside the shortcut of each group.
        activation: Activation function, ``"relu"`` or ``"silu"``.
        pooling: 2x2 pooling in the groups: ``"max"`` or ``"average"``.
    """

    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    residual: tuple[int, int, int] = (2, 0, 2)
    activation: Literal["relu", "silu"] = "relu"
    pooling: Literal["max", "average"] = "max"

    def maker(self, dataset: DataSet) -> MakeNetwork:
        """Return a function that makes a fresh network for a data set."""
        return partial(ResNet9, **asdict(self), classes=dataset.classes, channels=dataset.channels)


@dataclass(frozen=True, kw_only=True)
class ImportedNetwork:
    """Your own network, made by an importable function.

    Args:
        function: ``module:function``; it returns a fresh ``nn.Module`` from images in [0, 1] to
            logits. Parameters named ``classes`` and ``channels`` get the values of the data set.
        arguments: Its other arguments.
        weights: Checkpoint to start from: .safetensors, or .pth, .pt, .ckpt of ``torch.save``.
        new_head: Keep the network's own last linear layer: the weights are for other classes.
        logits: Part of the network's output that holds the logits: a key, an index, or
            ``binary`` for a single logit.
        last_linear: Dotted name of its last linear layer, if that is not the one registered last.

    Raises:
        ValueError: If the function is not written ``module:function``.

    Example:
        >>> ImportedNetwork(function="my_networks:make_cnn", arguments={"width": 32}).function
        'my_networks:make_cnn'
    """

    function: str
    arguments: JsonObject = field(default_factory=dict)
    weights: Path | None = None
    new_head: bool = False
    logits: Annotated[str | None, tyro.conf.arg(aliases=["--logits"])] = None
    last_linear: str | None = None

    def __post_init__(self) -> None:
        if Path(self.function).suffix in (".pt2", ".onnx") or ":" not in self.function:
            raise InvalidInput(
                "a network to train is written module:function, a function that makes it, got "
                f"{self.function!r}. torch.export and ONNX files can only be evaluated; "
                "weights in a checkpoint are passed with --network.weights."
            )

    def maker(self, dataset: DataSet) -> MakeNetwork:
        """Return a function that makes a fresh network for a data set; its code must be trusted."""
        known = {"classes": dataset.classes, "channels": dataset.channels}
        arguments = matching_arguments(self.function, known)

        def make() -> nn.Module:
            network = import_network(
                self.function,
                arguments | self.arguments,
                logits=self.logits,
                last_linear=self.last_linear,
            )
            if self.weights is not None:
                load_weights(network, self.weights, new_head=self.new_head)
            return network

        return make


AnyNetwork = WideResNetShape | ResNetShape | PreActResNetShape | ResNet9Shape | ImportedNetwork
"""Every network that a recipe may name. One without a kind, as in old recipes, is a wide ResNet."""
