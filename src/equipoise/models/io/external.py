"""Networks that Equipoise did not build: importable functions and exported files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from equipoise.models.io.exported import ExportedNetwork, OnnxNetwork
from equipoise.models.io.hub import HUB
from equipoise.models.io.logits_of import LogitsOf
from equipoise.models.io.state_dict_file import read_state_dict, unwrapped
from equipoise.runtime.errors import RunError
from equipoise.runtime.trust import Trusted, check_file, import_trusted_function, trusting


def is_external(name: str) -> bool:
    """Whether a name refers to an external network rather than a model folder.

    Example:
        >>> is_external("my_models:make_network"), is_external("model.onnx"), is_external("runs/a")
        (True, True, False)
    """
    if Path(name).is_dir() or name.startswith(HUB):
        return False
    return Path(name).suffix in (".onnx", ".pt2") or ":" in name


def load_external(name: str, trust: Sequence[Trusted] = ()) -> nn.Module:
    """Load an external network.

    Args:
        name: ``module:function`` for an importable function without arguments that returns an
            ``nn.Module`` (its code runs: name only what you trust), an ONNX file, or a file of
            ``torch.export``, whose path must be trusted. The network takes images in [0, 1], so
            it must normalise them itself.
        trust: Code that may be run in addition to what the caller already trusts, see
            ``trusting``.

    Returns:
        The network in eval mode. One from an ONNX file gives no gradients.

    Raises:
        RunError: If it cannot be found, imported or read, or is not trusted; the message says how.
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
    with trusting(name):  # the caller asked for this function by name
        return _call(name, {}).eval()


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


def load_initial_weights(network: LogitsOf, path: Path) -> None:
    """Load weights from which training starts.

    Args:
        network: The network that gets them.
        path: A file of the network's own ``state_dict()``, as for ``read_state_dict``, or of a
            model folder.

    Raises:
        RunError: If the file is missing, damaged, of another kind, or does not fit the network.
    """
    tensors = read_state_dict(path)
    try:
        own = network.network.state_dict()
        network.network.load_state_dict(unwrapped(tensors, own.keys()))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"{path} does not fit {type(network.network).__name__}: {reason}. It must contain "
            "every weight of the network under its own name."
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
