"""The configuration from which a model folder builds a model again."""

from typing import Any

from torch import nn

from equipoise.runtime.errors import InvalidInput


def config_of(network: nn.Module) -> dict[str, Any]:
    """Return a network's configuration.

    Raises:
        ValueError: If the network has none.
    """
    config = getattr(network, "config", None)
    if not isinstance(config, dict) or "kind" not in config:
        raise InvalidInput(
            f"{type(network).__name__} cannot be saved as a model folder: it has no `config` from "
            "which to build it again. Save its state_dict() instead."
        )
    return config
