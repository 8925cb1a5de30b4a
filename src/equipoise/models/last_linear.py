"""Penultimate features of whatever network stands behind a ``predict``, without its cooperation."""

from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from equipoise.types import Images, Logits, Predict


def find_last_linear(network: nn.Module) -> nn.Linear:
    """The linear layer that makes a network's logits.

    It is the one that the network names in an attribute ``last_linear``, a dotted name such as
    ``"classifier.1"``; otherwise the last one in order of registration.

    Raises:
        ValueError: If there is none, or the attribute names something else.
    """
    for module in network.modules():
        name = getattr(module, "last_linear", None)
        if isinstance(name, str):
            return check_last_linear(module)
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise ValueError(
            f"{network_name(network)} has no linear layer, so its penultimate features are "
            "unknown; wrap it so that it ends in nn.Linear."
        )
    return linears[-1]


def network_name(network: nn.Module) -> str:
    """The class of a network, for messages; of what is inside, where it stands in a wrapper."""
    return type(getattr(network, "network", network)).__name__


def check_last_linear(network: nn.Module) -> nn.Linear:
    """The layer that ``network.last_linear`` names.

    Raises:
        ValueError: If that is no linear layer of the network; the message lists those there are.
    """
    name = network.last_linear
    found = dict(network.named_modules()).get(str(name))
    if not isinstance(found, nn.Linear):
        raise ValueError(
            f"last_linear must name a linear layer of {network_name(network)} "
            f"({linear_layer_names(network)}), got {str(name).removeprefix('network.')!r}."
        )
    return found


def linear_layer_names(network: nn.Module) -> str:
    """The names of a network's linear layers, the last registered first, for messages."""
    inside = getattr(network, "network", network)
    names = [name for name, module in inside.named_modules() if isinstance(module, nn.Linear)]
    shown = ", ".join(name or "itself" for name in names[::-1][:8])
    return f"{shown}, ..." if len(names) > 8 else shown or "there is none"


def features_and_logits(
    predict: Predict, images: Images
) -> tuple[Float[Tensor, "batch size"], Logits]:
    """Call a predict and read the input of its network's last linear layer on the way.

    Args:
        predict: A network, or a ``functools.partial`` of one, as the methods give to objectives.
        images: Images in [0, 1].

    Returns:
        Features and logits of one forward pass; the gradient flows to both.

    Raises:
        ValueError: If there is no network behind the predict, it has no linear layer, or that layer
            did not run exactly once on a batch of vectors.
    """
    features, _, logits = read_last_linear(predict, images)
    return features, logits


def read_last_linear(
    predict: Predict, images: Images
) -> tuple[Float[Tensor, "batch size"], Tensor, Logits]:
    """Call a predict and watch its network's last linear layer.

    Args:
        predict: A network, or a ``functools.partial`` of one.
        images: Images in [0, 1].

    Returns:
        What went into the layer, what came out of it, and the predict's answer.

    Raises:
        ValueError: As ``features_and_logits``.
    """
    network = _network_behind(predict)
    seen: list[Tensor] = []
    made: list[Tensor] = []

    def read(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(inputs[0])
        made.append(output)

    hook = find_last_linear(network).register_forward_hook(read)
    try:
        logits = predict(images)
    finally:
        hook.remove()
    if len(seen) != 1 or seen[0].ndim != 2:
        raise ValueError(
            f"the last linear layer of {network_name(network)} must run once on a batch of "
            f"feature vectors, got {[tuple(each.shape) for each in seen]}."
        )
    return seen[0], made[0], logits


def _network_behind(predict: Predict) -> nn.Module:
    found: object = predict
    while isinstance(found, partial):
        found = found.func
    if not isinstance(found, nn.Module):
        raise ValueError(
            "penultimate features need an nn.Module, or a functools.partial of one, got "
            f"{type(found).__name__}: its layers cannot be seen."
        )
    return found
