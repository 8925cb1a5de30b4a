"""Where a weight generator can read: a named layer, found by name and by a traced forward pass."""

import difflib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from equipoise.models.afa.branches import BranchedNetwork, RoutedNorm
from equipoise.models.batch_norms import BatchNorm
from equipoise.models.copied import copied
from equipoise.models.last_linear import network_name
from equipoise.runtime.errors import InvalidInput

FixedBranch = Literal["robust", "clean"]
"""The branch of norms that run before the weight is known."""

SIDES = (32, 64, 224, 28, 96, 128, 8, 16, 48, 256, 299, 384)
"""Sides of the square images that are tried until a network accepts them, in pixels."""

ROWS = 2
"""Images of a traced forward pass."""


@dataclass(frozen=True, kw_only=True)
class AtLayer:
    """Placement of the weight generator at the end of a named layer.

    The generator reads what the layer returns. Norms that run later in the same forward pass are
    fused with its weight; norms that ran before have no weight yet and use a fixed branch. The
    order is that of execution, in each pass: a norm that runs twice can be on both sides. If
    the layer runs several times in a pass, its first output counts.

    Args:
        layer: Name of the layer, as in ``named_modules()`` of the network that was branched.
        before: Branch of the norms that run before: ``"robust"`` is the last one, ``"clean"`` the
            first.
        channels: Channels of the layer's output; ``None`` finds them by a traced forward pass.

    Raises:
        ValueError: If the name is empty, the branch is unknown or ``channels`` is below 1.

    Source:
        AFA Sec. 4.3: "we place the weight generator (WG) to the end of an intermediate layer"; the
        layer's output is x of Eq. (1)-(2). The paper does not say what norms before it do:
        docs/decisions/034-the-layer-that-the-generator-reads.md.

    Example:
        >>> AtLayer(layer="stages.0").before
        'robust'
        >>> AtLayer(layer="")
        Traceback (most recent call last):
        ...
        equipoise...InvalidInput: layer must be the name of a layer, got ''.
    """

    layer: str
    before: FixedBranch = "robust"
    channels: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.layer, str) or not self.layer:
            raise InvalidInput(f"layer must be the name of a layer, got {self.layer!r}.")
        if self.before not in get_args(FixedBranch):
            raise InvalidInput(
                f"before must be one of {get_args(FixedBranch)}, got {self.before!r}."
            )
        if self.channels is not None and (type(self.channels) is not int or self.channels < 1):
            raise InvalidInput(f"channels must be 1 or more, got {self.channels!r}.")

    @property
    def row(self) -> int:
        """Row of the fixed branch in a fused pair of norms: 0 is clean, 1 robust."""
        return 0 if self.before == "clean" else 1

    def check(self, output: object) -> Tensor:
        """Return a layer's output if the generator can read it.

        Raises:
            ValueError: If it is not a tensor ``(batch, channels, height, width)`` with the channels
                of this placement.
        """
        if isinstance(output, Tensor) and _is_map(output) and output.shape[1] == self.channels:
            return output
        raise InvalidInput(
            f"layer {self.layer!r} must return maps of shape (batch, {self.channels}, height, "
            f"width) for the weight generator, got {_described(output)}."
        )


def first_convolution(network: nn.Module) -> nn.Conv2d:
    """Return the first convolution in order of registration.

    Raises:
        ValueError: If there is none.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            return module
    raise InvalidInput(
        f"{type(network).__name__} has no nn.Conv2d, so a weight generator cannot be fitted to it."
    )


def layer_path(network: nn.Module, layer: str) -> str:
    """Find a layer by name.

    Args:
        network: A network, or a wrapper that holds one in ``network``; then names inside the
            wrapped network are known as well.
        layer: Name as in ``named_modules()``.

    Returns:
        The name in ``network``, for ``get_submodule``.

    Raises:
        ValueError: If there is no such layer; the message lists near names.

    Example:
        >>> from torch import nn
        >>> layer_path(nn.Sequential(nn.Identity(), nn.ReLU()), "1")
        '1'
    """
    names = _layers(network)
    for name in (layer, f"network.{layer}"):
        if name in names:
            return name
    raise InvalidInput(
        f"layer must name a layer of {network_name(network)} as in named_modules(), got "
        f"{layer!r}. {_near(layer, list(names))}"
    )


def traced(branched: BranchedNetwork, at: AtLayer) -> AtLayer:
    """Check that a generator can read a layer, and find its channels, by running the network.

    A copy of the network runs two grey images, of the sizes in ``SIDES`` until one is accepted; it
    need not come to its end: what counts is that the layer runs and a norm runs after it.

    Args:
        branched: The K-branch network; it is not changed.
        at: The placement.

    Returns:
        The placement with the layer's full name and its channels. If the channels are given,
        nothing is run.

    Raises:
        ValueError: If there is no such layer, it does not run, it does not return maps, or no norm
            runs after it; the message lists near names of layers that can be read.

    Example:
        >>> from equipoise.models import WideResNet, with_branches
        >>> branched = with_branches(WideResNet(depth=10, width=2, classes=10), branches=2)
        >>> traced(branched, AtLayer(layer="stages.0")).channels
        32
    """
    path = layer_path(branched.network, at.layer)
    if at.channels is not None:
        return replace(at, layer=path)
    best = _Trace()
    registered_first = first_convolution(branched).in_channels  # it need not run first
    colours = dict.fromkeys((registered_first, 3, 1))
    for channels, side in itertools.product(colours, SIDES):
        trace = _trace(branched, (ROWS, channels, side, side))
        if path in trace.usable():
            return replace(at, layer=path, channels=int(trace.outputs[path].shape[1]))
        if not best.ends or len(trace.ends) > len(best.ends):
            best = trace
        if trace.error is None:
            best = trace
            break
    raise InvalidInput(
        f"the weight generator cannot read layer {at.layer!r} of "
        f"{network_name(branched.network)}: {_why_not(best, path)}. "
        f"{_near(at.layer, best.usable(), 'Layers that can be read')}"
    )


@dataclass
class _Trace:
    """A forward pass: when each layer first ended, what it returned, and when the last norm ran."""

    ends: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    last_norm: int = -1
    clock: int = 0
    error: Exception | None = None

    def ended(self, names: Sequence[str], module: nn.Module, inputs: Any, output: Any) -> None:
        """Record the end of a module; a forward hook."""
        self.clock += 1
        if isinstance(module, RoutedNorm):
            self.last_norm = self.clock
        for name in names:
            if name not in self.ends:
                self.ends[name], self.outputs[name] = self.clock, output

    def is_read(self, name: str) -> bool:
        """Whether a layer returned one map for each image."""
        output = self.outputs[name]
        return _is_map(output) and output.shape[0] == ROWS

    def usable(self) -> list[str]:
        """Layers that return maps before the last norm runs, in order of execution."""
        return [
            name for name, end in self.ends.items() if self.is_read(name) and end < self.last_norm
        ]


def _trace(branched: BranchedNetwork, shape: tuple[int, ...]) -> _Trace:
    """Run a copy of a network on grey images of one shape."""
    trace, twin = _Trace(), copied(branched).eval()
    names: dict[nn.Module, list[str]] = {}
    for name, module in _layers(twin.network).items():
        names.setdefault(module, []).append(name)
    for module, own in names.items():
        module.register_forward_hook(partial(trace.ended, own))
    like = next(twin.parameters())
    try:
        with torch.no_grad():
            twin(torch.full(shape, 0.5, device=like.device, dtype=like.dtype), branch=0)
    except Exception as error:  # a user's network may raise any
        trace.error = error
    return trace


def _why_not(trace: _Trace, path: str) -> str:
    if path not in trace.ends:
        if trace.error is not None:
            reason = (str(trace.error).splitlines() or [type(trace.error).__name__])[0]
            return (
                f"no traced forward pass came to its end ({reason}); name an earlier layer, "
                "or give the channels of its output, AtLayer(channels=...)"
            )
        return "it does not run in a forward pass, so it has no output"
    if not trace.is_read(path):
        return (
            "it must return maps of shape (batch, channel, height, width), got "
            f"{_described(trace.outputs[path])} for {ROWS} images"
        )
    return "no batch norm runs after it, so its weight would fuse nothing"


def _layers(network: nn.Module) -> dict[str, nn.Module]:
    """All layers by every name they have; what is inside a branched norm does not count."""
    layers: dict[str, nn.Module] = {}
    hidden: list[str] = []
    for name, module in network.named_modules(remove_duplicate=False):
        if not name or any(name.startswith(prefix) for prefix in hidden):
            continue
        layers[name] = module
        if isinstance(module, RoutedNorm | BatchNorm):
            hidden.append(f"{name}.")
    return layers


def _is_map(output: object) -> bool:
    return isinstance(output, Tensor) and output.ndim == 4 and output.is_floating_point()


def _described(output: object) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    return f"a {type(output).__name__}"


def _near(layer: str, names: Sequence[str], title: str = "Near names") -> str:
    names = [name.removeprefix("network.") for name in names]  # both are found
    near = difflib.get_close_matches(layer, names, n=3, cutoff=0.5) or names[:5]
    return f"{title}: {', '.join(near)}." if near else f"{title}: none."
