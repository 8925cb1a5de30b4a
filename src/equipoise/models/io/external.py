"""Networks that Equipoise did not build: importable functions and exported files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from equipoise.models.io.exported import ExportedNetwork, OnnxNetwork
from equipoise.models.io.hub import HUB
from equipoise.models.io.logits_of import LogitsOf
from equipoise.models.io.pretrained import PUBLISHED, load_pretrained
from equipoise.models.io.state_dict_file import read_state_dict, unwrapped
from equipoise.models.last_linear import find_last_linear
from equipoise.runtime.errors import RunError
from equipoise.runtime.trust import (
    Trusted,
    check_file,
    import_trusted_function,
    names_function,
    trusting,
)


def is_external(name: str) -> bool:
    """Whether a name refers to an external network rather than a model folder.

    Example:
        >>> is_external("my_models:make_network"), is_external("model.onnx"), is_external("runs/a")
        (True, True, False)
        >>> is_external("my_models:make_network@weights.pth")
        True
    """
    if Path(name).is_dir() or name.startswith(HUB):
        return False
    return Path(name).suffix in (".onnx", ".pt2") or ":" in name


def load_external(name: str, trust: Sequence[Trusted] = ()) -> nn.Module:
    """Load an external network.

    Args:
        name: ``module:function`` for an importable function without arguments that returns an
            ``nn.Module`` (its code runs: name only what you trust), ``module:function@FILE`` to
            load a checkpoint into that network, an ONNX file, or a file of ``torch.export``, whose
            path must be trusted. The network takes images in [0, 1], so it must normalise them
            itself.
        trust: Code that may be run in addition to what the caller already trusts, see
            ``trusting``.

    Returns:
        The network in eval mode. One from an ONNX file gives no gradients.

    Raises:
        RunError: If it cannot be found, imported or read, or is not trusted; the message says how.
        ValueError: If published weights do not fit one of our backbones.
    """
    path = Path(name)
    if path.suffix in (".onnx", ".pt2"):
        if not path.is_file():
            raise RunError(f"{path} does not exist.")
        if path.suffix == ".onnx":
            return OnnxNetwork(path)
        with trusting(*trust):
            check_file(path)
        return ExportedNetwork(path)
    function, weights = split_weights(name)
    with trusting(function):  # the caller asked for this function by name
        network = _call(function, {})
    if weights is not None:
        load_weights(network, weights)
    return network.eval()


def split_weights(name: str) -> tuple[str, Path | None]:
    """Split ``module:function@FILE`` into the function and the file of its weights.

    Example:
        >>> split_weights("my_models:make_network@weights.pth")
        ('my_models:make_network', PosixPath('weights.pth'))
        >>> split_weights("runs/a@b")
        ('runs/a@b', None)
    """
    function, _, weights = name.partition("@")
    return (function, Path(weights)) if weights and names_function(function) else (name, None)


def import_network(
    function: str,
    arguments: Mapping[str, Any],
    *,
    logits: str | None = None,
    last_linear: str | None = None,
) -> LogitsOf:
    """Build a network with a trusted function, so that a model folder can build it again.

    Args:
        function: ``module:function``; it returns an ``nn.Module``.
        arguments: Keyword arguments of the function; JSON values.
        logits: Where the logits are in the network's output, see ``LogitsOf``.
        last_linear: Dotted name of the network's last linear layer, if that is not the one that
            was registered last.

    Returns:
        The network, unchanged, inside a ``LogitsOf`` that knows its configuration.

    Raises:
        RunError: If the function is not trusted, does not exist or does not return a network.
        ValueError: If ``last_linear`` does not name a linear layer.

    Example:
        >>> from equipoise.runtime.trust import trusting
        >>> with trusting("torch.nn"):
        ...     network = import_network("torch.nn:Linear", {"in_features": 4, "out_features": 3})
        >>> network.config["function"]
        'torch.nn:Linear'
    """
    config = {
        "kind": "imported",
        "function": function,
        "arguments": dict(arguments),
        "logits": logits,
        "last_linear": last_linear,
    }
    network = _call(function, arguments)
    return LogitsOf(network, logits, last_linear=last_linear, config=config)


def import_with_weights(name: str) -> LogitsOf:
    """Build a network from ``module:function`` or ``module:function@FILE``; it must be trusted.

    Raises:
        RunError: As ``import_network`` and ``load_weights``.
        ValueError: As ``load_weights``.
    """
    function, weights = split_weights(name)
    network = import_network(function, {})
    if weights is not None:
        load_weights(network, weights)
    return network


def load_weights(network: nn.Module, path: Path, *, new_head: bool = False) -> None:
    """Load the weights of a checkpoint into a network, such as those from which training starts.

    Args:
        network: The network that gets them. Our backbones also take published weights under other
            names, see ``load_pretrained``.
        path: A file of the network's own ``state_dict()``, as for ``read_state_dict``, or of a
            model folder.
        new_head: Keep the network's own last linear layer, for other classes.

    Raises:
        RunError: If the file is missing, damaged, of another kind, or does not fit the network.
        ValueError: If published weights do not fit one of our backbones, or there is no last linear
            layer to keep.
    """
    inner = network.network if isinstance(network, LogitsOf) else network
    if isinstance(inner, PUBLISHED):
        load_pretrained(inner, path, head="fresh" if new_head else "load").train(network.training)
        return
    own, tensors = inner.state_dict(), read_state_dict(path)
    tensors = unwrapped(tensors, own.keys())
    if new_head:
        last = find_last_linear(network)
        (head,) = (name for name, module in inner.named_modules() if module is last)
        kept = {name: value for name, value in own.items() if name.startswith(f"{head}.")}
        tensors |= kept
    try:
        inner.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"{path} does not fit {type(inner).__name__}: {reason}. It must contain every weight "
            "of the network under its own name; for other classes keep the network's own last "
            "layer with --network.new-head."
        ) from error


def _call(function: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Call a trusted function that returns a network."""
    make = import_trusted_function(function)
    try:
        network = make(**arguments)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items()) or "none"
        raise RunError(
            f"{function} cannot build a network ({error}); its arguments were: {given}."
        ) from error
    if not isinstance(network, nn.Module):
        raise RunError(f"{function} must return an nn.Module, got {type(network).__name__}.")
    return network
