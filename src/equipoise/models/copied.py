"""Copies of networks."""

import copy
from typing import TypeVar

from torch import Tensor, nn

from equipoise.models.last_linear import network_name
from equipoise.runtime.errors import InvalidInput

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def copied(network: AnyModule) -> AnyModule:
    """Copy a network.

    Results of an earlier call that a module keeps as plain attributes, as ``weight_norm`` and
    ``spectral_norm`` of ``torch.nn.utils`` do, are detached first: ``copy.deepcopy`` refuses them.

    Raises:
        ValueError: If it cannot be copied.

    Example:
        >>> network = nn.Linear(2, 3)
        >>> network.kept = network.weight * 2
        >>> copied(network).kept.shape
        torch.Size([3, 2])
    """
    for module in network.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                vars(module)[name] = value.detach()
    try:
        return copy.deepcopy(network)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f"{network_name(network)} cannot be copied ({error}). Remove what copy.deepcopy "
            "refuses, such as open files or tensors with a graph, or name a function that makes "
            "the network, module:function."
        ) from error
