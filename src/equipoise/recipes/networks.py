"""Which backbone is trained: small frozen descriptions that a recipe stores."""

import inspect
import json
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from torch import nn

from equipoise.data import DataSet
from equipoise.methods import MakeNetwork
from equipoise.models import PreActResNet, ResNet, WideResNet
from equipoise.models.io.external import import_network, load_initial_weights
from equipoise.models.io.trust import import_trusted_function


@dataclass(frozen=True, kw_only=True)
class WideResNetShape:
    """Which wide ResNet is trained; channels and classes come from the data.

    Args:
        depth: 6 n + 4.
        width: Width factor.
        activation: ``"relu"`` or ``"silu"``.
    """

    depth: int
    width: int
    activation: Literal["relu", "silu"] = "relu"

    def maker(self, dataset: DataSet) -> MakeNetwork:
        """A function that makes a fresh network for a data set."""
        return partial(
            WideResNet, **asdict(self), classes=dataset.classes, channels=dataset.channels
        )


@dataclass(frozen=True, kw_only=True)
class ResNetShape:
    """Which ResNet is trained; channels and classes come from the data.

    Args:
        depth: 18, 34 or 50.
        activation: ``"relu"`` or ``"silu"``.
        stem: ``"small"``, or ``"imagenet"`` for images of 100 pixels and more.
        width: Channels of the first stage.
    """

    depth: int
    activation: Literal["relu", "silu"] = "relu"
    stem: Literal["small", "imagenet"] = "small"
    width: int = 64

    def maker(self, dataset: DataSet) -> MakeNetwork:
        """A function that makes a fresh network for a data set."""
        return partial(ResNet, **asdict(self), classes=dataset.classes, channels=dataset.channels)


@dataclass(frozen=True, kw_only=True)
class PreActResNetShape:
    """Which pre-activation ResNet is trained; channels and classes come from the data.

    Args:
        depth: 18 or 34.
        activation: ``"relu"`` or ``"silu"``.
        width: Channels of the first stage.
    """

    depth: int = 18
    activation: Literal["relu", "silu"] = "relu"
    width: int = 64

    def maker(self, dataset: DataSet) -> MakeNetwork:
        """A function that makes a fresh network for a data set."""
        return partial(
            PreActResNet, **asdict(self), classes=dataset.classes, channels=dataset.channels
        )


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"arguments must be a JSON object, got {text!r} ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(
            f"arguments must be a JSON object such as '{{\"depth\": 3}}', got {text!r}"
        )
    return found


Arguments = Annotated[
    dict[str, Any],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda given: _object(given[0]),
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    ),
]
"""What a function is called with, by name; on the command line a JSON object."""


@dataclass(frozen=True, kw_only=True)
class ImportedNetwork:
    """Somebody's own network, made by a function of theirs.

    Args:
        function: ``module:function``; it returns a fresh ``nn.Module`` from images in [0, 1] to
            logits. If it has arguments called ``classes`` or ``channels``, it is given those of the
            data.
        arguments: Its other arguments.
        weights: A .safetensors file of the network's ``state_dict()`` to start from.
        logits: Which part of its answer holds the logits: a key, a place, or binary.
        last_linear: Dotted name of its last linear layer, where it is not the one registered last.

    Raises:
        ValueError: If the function is not written ``module:function``.
    """

    function: str
    arguments: Arguments = field(default_factory=dict)
    weights: Path | None = None
    logits: Annotated[str | None, tyro.conf.arg(aliases=["--logits"])] = None
    last_linear: str | None = None

    def __post_init__(self) -> None:
        if Path(self.function).suffix in (".pt2", ".onnx") or ":" not in self.function:
            raise ValueError(
                "a network to train is written module:function, a function that makes it, got "
                f"{self.function!r}. Files of torch.export and ONNX can only be evaluated; weights "
                "in a .safetensors file go to --network.weights."
            )

    def maker(self, dataset: DataSet) -> MakeNetwork:
        """A function that makes a fresh network for a data set; its code must be trusted here."""
        wanted = inspect.signature(import_trusted_function(self.function)).parameters
        known = {"classes": dataset.classes, "channels": dataset.channels}
        arguments = {name: value for name, value in known.items() if name in wanted}

        def make() -> nn.Module:
            network = import_network(
                self.function,
                arguments | self.arguments,
                logits=self.logits,
                last_linear=self.last_linear,
            )
            if self.weights is not None:
                load_initial_weights(network, self.weights)
            return network

        return make


AnyNetwork = WideResNetShape | ResNetShape | PreActResNetShape | ImportedNetwork
"""Every network a recipe may name; one without a kind, as in old recipes, is a wide ResNet."""
