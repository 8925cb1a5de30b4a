"""Weights that other projects published, under their own names, put into our networks."""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from equipoise.models.model_config import config_of
from equipoise.runtime.errors import RunError


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How one family of projects names the parts of a network.

    ``first`` is a name that tells the family. ``rules`` are (start of a name, ours, what is taken
    off each number in it). ``unused`` are starts of names whose tensors compute nothing.
    ``demands`` is what our network's configuration must say.
    """

    first: str
    rules: tuple[tuple[str, str, tuple[int, ...]], ...]
    unused: tuple[str, ...] = ()
    demands: dict[str, Any] = field(default_factory=dict)

    def ours(self, name: str) -> str | None:
        """Our name of a tensor, or ``None`` for one that no rule knows."""
        for start, template, shifts in self.rules:
            found = re.match(start, name)
            if found:
                numbers = (int(n) - less for n, less in zip(found.groups(), shifts, strict=True))
                return template.format(*numbers) + name[found.end() :]
        return None


_NORMALISATION = (
    (r"(?:normalize\.)?(?:mean|mu)$", "normalise.mean", ()),
    (r"(?:normalize\.)?(?:std|sigma)$", "normalise.std", ()),
)
_HEAD = (r"(?:fc|linear)\.", "linear.", ())

TRADES_WIDE_RESNET = _Layout(
    first="block1.layer.0.conv1.weight",
    rules=(
        (r"conv1\.", "conv.", ()),
        (r"block(\d)\.layer\.(\d+)\.conv(\d)\.", "stages.{}.{}.conv{}.", (1, 0, 0)),
        (r"block(\d)\.layer\.(\d+)\.bn(\d)\.", "stages.{}.{}.norm{}.", (1, 0, 0)),
        (r"block(\d)\.layer\.(\d+)\.convShortcut\.", "stages.{}.{}.shortcut.", (1, 0)),
        (r"bn1\.", "norm.", ()),
        _HEAD,
        *_NORMALISATION,
    ),
    unused=("sub_block1.",),
    demands={"padding": "both_sides"},
)
DEEPMIND_WIDE_RESNET = _Layout(
    first="layer.0.block.0.conv_0.weight",
    rules=(
        (r"init_conv\.", "conv.", ()),
        (r"layer\.(\d)\.block\.(\d+)\.conv_(\d)\.", "stages.{}.{}.conv{}.", (0, 0, -1)),
        (r"layer\.(\d)\.block\.(\d+)\.batchnorm_(\d)\.", "stages.{}.{}.norm{}.", (0, 0, -1)),
        (r"layer\.(\d)\.block\.(\d+)\.shortcut\.", "stages.{}.{}.shortcut.", (0, 0)),
        (r"batchnorm\.", "norm.", ()),
        (r"logits\.", "linear.", ()),
        *_NORMALISATION,
    ),
    demands={"padding": "one_side"},
)
PREACT_RESNET = _Layout(
    first="layer1.0.conv1.weight",
    rules=(
        (r"conv1\.", "conv.", ()),
        (r"layer(\d)\.(\d+)\.conv(\d)\.", "stages.{}.{}.conv{}.", (1, 0, 0)),
        (r"layer(\d)\.(\d+)\.bn(\d)\.", "stages.{}.{}.norm{}.", (1, 0, 0)),
        (r"layer(\d)\.(\d+)\.shortcut\.0\.", "stages.{}.{}.shortcut.", (1, 0)),
        (r"bn\.", "norm.", ()),
        _HEAD,
        *_NORMALISATION,
    ),
)
RESNET = _Layout(
    first="layer1.0.conv1.weight",
    rules=(
        (r"conv1\.", "conv.", ()),
        (r"bn1\.", "norm.", ()),
        (r"layer(\d)\.(\d+)\.conv(\d)\.", "stages.{}.{}.convs.{}.", (1, 0, 1)),
        (r"layer(\d)\.(\d+)\.bn(\d)\.", "stages.{}.{}.norms.{}.", (1, 0, 1)),
        (
            r"layer(\d)\.(\d+)\.(?:shortcut|downsample)\.(\d)\.",
            "stages.{}.{}.shortcut.{}.",
            (1, 0, 0),
        ),
        _HEAD,
        *_NORMALISATION,
    ),
)
LAYOUTS: dict[str, tuple[_Layout, ...]] = {
    "wide_resnet": (TRADES_WIDE_RESNET, DEEPMIND_WIDE_RESNET),
    "preact_resnet": (PREACT_RESNET,),
    "resnet": (RESNET,),
}
"""By the kind of our network, the layouts that fit it."""


def load_pretrained(network: nn.Module, weights: Path | str | Mapping[str, Tensor]) -> nn.Module:
    """Put published weights into one of our backbones.

    A wide ResNet takes those of TRADES and the many projects that copied its file (MART, FAT,
    LBGAT, AWP, AFS, RobustBench), and those of DeepMind's, which need ``padding="one_side"``; a
    PreActResNet and a ResNet those of the usual CIFAR files. Nothing in the names tells the
    activation, the normalisation or what a PreActResNet's shortcut reads: build the network as the
    project did.

    Args:
        network: A ``WideResNet``, ``PreActResNet`` or ``ResNet`` of the same shape, with the mean
            and deviation of the project: 0 and 1 where it normalises nothing.
        weights: A ``.safetensors`` file, a file of ``torch.save`` that holds tensors and plain
            values alone, or the state dict itself.

    Returns:
        The network, in eval mode.

    Raises:
        RunError: If the file cannot be read.
        ValueError: If the weights do not fit; the message names what is missing, left over or of
            another shape.

    Source:
        Names: yaodongyu/TRADES ``models/wideresnet.py``, whose ``sub_block1`` is never called and
        is skipped; RobustBench/robustbench ``model_zoo/architectures``.
    """
    config, own = config_of(network), network.state_dict()
    given = weights if isinstance(weights, Mapping) else _read(Path(weights))
    given = {re.sub(r"^(module\.|model\.)+", "", name): value for name, value in given.items()}
    layout = _layout_of(config["kind"], given)
    for setting, wanted in layout.demands.items():
        if config[setting] != wanted:
            raise ValueError(
                f"these weights belong to a network with {setting}={wanted!r}, got "
                f"{setting}={config[setting]!r}; build it with the former."
            )
    named, left_over = {}, []
    for name, value in given.items():
        if not name.startswith(layout.unused or ("\0",)):
            ours = layout.ours(name)
            if ours in own:
                named[ours] = value.reshape(-1, 1, 1) if "normalise" in ours else value
            else:
                left_over.append(name)
    # The normalisation is seldom stored, and counters of batches only since torch 0.4.1.
    optional = {name for name in own if name.startswith("normalise.") or name.endswith("_tracked")}
    problems = {
        "missing": sorted(own.keys() - named.keys() - optional),
        "left over": left_over,
        "of another shape": [n for n, value in named.items() if value.shape != own[n].shape],
    }
    if any(problems.values()):
        said = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        raise ValueError(
            f"the weights do not fit this {type(network).__name__}: {said}. Build the network with "
            "the depth, width, classes and settings of the project they come from."
        )
    for name in ("normalise.mean", "normalise.std"):
        if name in named and not torch.allclose(named[name].to(own[name]), own[name]):
            raise ValueError(
                f"the weights were trained with {name} {named[name].flatten().tolist()}, got "
                f"{own[name].flatten().tolist()}; build the network with the former."
            )
    network.load_state_dict({**own, **named})
    return network.eval()


def _layout_of(kind: str, given: Mapping[str, Tensor]) -> _Layout:
    if kind not in LAYOUTS:
        raise ValueError(
            f"published weights can be put into {', '.join(LAYOUTS)}, got a network of kind {kind}."
        )
    for layout in LAYOUTS[kind]:
        if layout.first in given:
            return layout
    raise ValueError(
        f"the weights are none of a {kind} that is known: they hold none of "
        f"{', '.join(layout.first for layout in LAYOUTS[kind])}, but {_some(list(given))}."
    )


def _read(path: Path) -> dict[str, Tensor]:
    """A state dict from a file; one may lie inside a checkpoint."""
    if not path.is_file():
        raise RunError(f"{path} does not exist.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        document: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, OSError, RuntimeError) as error:
        raise RunError(
            f"{path} cannot be read as tensors and plain values ({_line(error)}); anything else is "
            "refused, because loading it could run anything. Save a state_dict() alone."
        ) from error
    for key in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(document, dict) and isinstance(document.get(key), dict):
            document = document[key]
    if not isinstance(document, dict) or not all(
        isinstance(value, Tensor) for value in document.values()
    ):
        raise RunError(f"{path} holds no state dict: names with a tensor each.")
    return document


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
