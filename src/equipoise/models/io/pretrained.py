"""Load weights that other projects published, under their own names, into our backbones."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from equipoise.models.backbones.preact_resnet import PreActResNet
from equipoise.models.backbones.resnet import ResNet
from equipoise.models.backbones.wide_resnet import WideResNet
from equipoise.models.io.state_dict_file import read_state_dict, unwrapped
from equipoise.models.model_config import config_of
from equipoise.runtime.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How one family of projects names the tensors of a network.

    Args:
        marker: A name that only this family uses.
        rules: For each kind of tensor: a pattern for the start of its name, our name for it, and
            what to subtract from each number in the pattern.
        unused: Starts of names whose tensors take no part in the computation.
        required: Settings that our network's configuration must have.
    """

    marker: str
    rules: tuple[tuple[str, str, tuple[int, ...]], ...]
    unused: tuple[str, ...] = ()
    required: dict[str, Any] = field(default_factory=dict)

    def translate(self, name: str) -> str | None:
        """Return our name for a tensor, or ``None`` if no rule matches."""
        for pattern, template, offsets in self.rules:
            match = re.match(pattern, name)
            if match:
                numbers = (int(n) - less for n, less in zip(match.groups(), offsets, strict=True))
                return template.format(*numbers) + name[match.end() :]
        return None


_NORMALISATION = (
    (r"(?:normalize\.)?(?:mean|mu)$", "normalise.mean", ()),
    (r"(?:normalize\.)?(?:std|sigma)$", "normalise.std", ()),
)
_HEAD = (r"(?:fc|linear)\.", "linear.", ())

TRADES_WIDE_RESNET = _Layout(
    marker="block1.layer.0.conv1.weight",
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
    required={"padding": "both_sides"},
)
DEEPMIND_WIDE_RESNET = _Layout(
    marker="layer.0.block.0.conv_0.weight",
    rules=(
        (r"init_conv\.", "conv.", ()),
        (r"layer\.(\d)\.block\.(\d+)\.conv_(\d)\.", "stages.{}.{}.conv{}.", (0, 0, -1)),
        (r"layer\.(\d)\.block\.(\d+)\.batchnorm_(\d)\.", "stages.{}.{}.norm{}.", (0, 0, -1)),
        (r"layer\.(\d)\.block\.(\d+)\.shortcut\.", "stages.{}.{}.shortcut.", (0, 0)),
        (r"batchnorm\.", "norm.", ()),
        (r"logits\.", "linear.", ()),
        *_NORMALISATION,
    ),
    required={"padding": "one_side"},
)
PREACT_RESNET = _Layout(
    marker="layer1.0.conv1.weight",
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
    marker="layer1.0.conv1.weight",
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
_OWN = _Layout(marker="", rules=((r"", "", ()),))
"""Our own names."""
LAYOUTS: dict[str, tuple[_Layout, ...]] = {
    "wide_resnet": (TRADES_WIDE_RESNET, DEEPMIND_WIDE_RESNET),
    "preact_resnet": (PREACT_RESNET,),
    "resnet": (RESNET,),
}
"""The layouts that fit each kind of backbone."""
PUBLISHED = (WideResNet, PreActResNet, ResNet)
"""Backbones of these kinds."""


def load_pretrained(
    network: nn.Module,
    weights: Path | str | Mapping[str, Tensor],
    *,
    head: Literal["load", "fresh"] = "load",
) -> nn.Module:
    """Load published weights into one of our backbones.

    A ``WideResNet`` takes weights of TRADES and the many projects that copied its file (MART, FAT,
    LBGAT, AWP, AFS, RobustBench), and DeepMind's, which need ``padding="one_side"``. A
    ``PreActResNet`` or ``ResNet`` takes those of the usual CIFAR files, and a ``ResNet`` those of
    torchvision and timm, which need ``stem="imagenet"``. The names do not reveal the
    activation, the normalisation, or what a PreActResNet's shortcut reads: build the network with
    the settings of the project.

    Args:
        network: A ``WideResNet``, ``PreActResNet`` or ``ResNet`` of the same shape, with the
            project's mean and deviation: 0 and 1 if it does not normalise its input.
        weights: A ``.safetensors`` file, a file of ``torch.save`` (``.pth``, ``.pt``, ``.ckpt``)
            that holds only tensors and plain values, or the state dict itself. The state dict may
            be inside a checkpoint, and its names may have prefixes such as ``module.``; see
            ``state_dict_file.KEYS``.
        head: ``"fresh"`` keeps the network's own last layer, for another number of classes.

    Returns:
        The network, in eval mode.

    Raises:
        RunError: If the file cannot be read.
        ValueError: If the weights do not fit; the message names what is missing, left over or of
            another shape.

    Source:
        Names: yaodongyu/TRADES ``models/wideresnet.py``, whose ``sub_block1`` is never called and
        is skipped; RobustBench/robustbench ``model_zoo/architectures``.

    Example:
        >>> import torch
        >>> from equipoise.models import WideResNet
        >>> network = WideResNet(depth=10, width=1, classes=10, mean=[0.0] * 3, std=[1.0] * 3)
        >>> load_pretrained(network, {"block1.layer.0.conv1.weight": torch.zeros(16, 16, 3, 3)})
        Traceback (most recent call last):
        ...
        equipoise...InvalidInput: the weights do not fit this WideResNet: missing: conv.weight, ...
    """
    config = config_of(network)
    given = weights if isinstance(weights, Mapping) else read_state_dict(Path(weights))
    own = unwrapped(given, network.state_dict())
    if own.keys() >= {name for name, _ in network.named_parameters()}:
        given, layout = own, _OWN
    else:
        markers = [layout.marker for layout in LAYOUTS.get(config["kind"], ())]
        given = unwrapped(given, markers)
        layout = _layout_of(config["kind"], given)
    for setting, required in layout.required.items():
        if config[setting] != required:
            raise InvalidInput(
                f"these weights belong to a network with {setting}={required!r}, got "
                f"{setting}={config[setting]!r}; build it with the former."
            )
    translated = _translate(network, layout, given, fresh=("linear.",) if head == "fresh" else ())
    state = network.state_dict()
    for name in ("normalise.mean", "normalise.std"):
        if name in translated and not torch.allclose(translated[name].to(state[name]), state[name]):
            raise InvalidInput(
                f"the weights were trained with {name} {translated[name].flatten().tolist()}, got "
                f"{state[name].flatten().tolist()}; build the network with the former."
            )
    network.load_state_dict({**state, **translated})
    return network.eval()


def _layout_of(kind: str, given: Mapping[str, Tensor]) -> _Layout:
    """The layout of a state dict."""
    if kind not in LAYOUTS:
        raise InvalidInput(
            f"published weights can be loaded into {', '.join(LAYOUTS)}, got a network of kind "
            f"{kind}."
        )
    for layout in LAYOUTS[kind]:
        if layout.marker in given:
            return layout
    raise InvalidInput(
        f"the weights are not in a known layout of a {kind}: they must hold one of "
        f"{', '.join(layout.marker for layout in LAYOUTS[kind])}, got {_first_names(list(given))}."
    )


def _translate(
    network: nn.Module, layout: _Layout, given: Mapping[str, Tensor], fresh: tuple[str, ...]
) -> dict[str, Tensor]:
    """Rename tensors to the network's names, and reject them if they do not fit it.

    Args:
        network: The network.
        layout: How the tensors are named.
        given: The tensors.
        fresh: Starts of our names that keep their values.
    """
    state = network.state_dict()
    translated, left_over = {}, []
    for name, value in given.items():
        if not name.startswith(layout.unused or ("\0",)):
            ours = layout.translate(name)
            if ours is not None and ours.startswith(fresh or ("\0",)):
                continue
            if ours in state:
                translated[ours] = value.reshape(-1, 1, 1) if "normalise" in ours else value
            else:
                left_over.append(name)
    # Few projects store the normalisation, and batch counters exist only since torch 0.4.1.
    optional = {n for n in state if n.startswith(("normalise.", *fresh)) or n.endswith("_tracked")}
    problems = {
        "missing": sorted(state.keys() - translated.keys() - optional),
        "left over": left_over,
        "of another shape": [n for n, v in translated.items() if v.shape != state[n].shape],
    }
    if any(problems.values()):
        details = [f"{kind}: {_first_names(names)}" for kind, names in problems.items() if names]
        raise InvalidInput(
            f"the weights do not fit this {type(network).__name__}: {'; '.join(details)}. Build "
            "the network with the depth, width, classes and settings of the project they come "
            'from; for other classes pass head="fresh".'
        )
    return translated


def _first_names(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
