"""Configuration of a model: what a model folder needs to build it again."""

from typing import Any

from torch import nn


def config_of(network: nn.Module) -> dict[str, Any]:
    """The configuration from which a model folder builds a network again.

    Raises:
        ValueError: If the network does not know its own configuration.
    """
    config = getattr(network, "config", None)
    if not isinstance(config, dict) or "kind" not in config:
        raise ValueError(
            f"{type(network).__name__} cannot be saved as a model folder: it has no `config` that "
            "says how to build it again. Save its state_dict() instead."
        )
    return config
