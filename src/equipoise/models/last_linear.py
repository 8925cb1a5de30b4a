"""Find a network's last linear layer and read the penultimate features, its input."""

from jaxtyping import Float
from torch import Tensor, nn

from equipoise.models.recalled import Recalled, function_behind
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Logits, Predict


def find_last_linear(network: nn.Module) -> nn.Linear:
    """Return the linear layer that makes a network's logits.

    If the network has an attribute ``last_linear`` with a dotted name such as ``"classifier.1"``,
    it is that layer; otherwise it is the last one in order of registration.

    Raises:
        ValueError: If there is no linear layer, or the attribute names something else.

    Example:
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
        >>> find_last_linear(network)
        Linear(in_features=8, out_features=10, bias=True)
    """
    for module in network.modules():
        name = getattr(module, "last_linear", None)
        if isinstance(name, str):
            return check_last_linear(module)
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise InvalidInput(
            f"{network_name(network)} has no linear layer, so its penultimate features are "
            "unknown; wrap it so that it ends in nn.Linear."
        )
    return linears[-1]


def network_name(network: nn.Module) -> str:
    """Return the name of a network's class for messages; inside a wrapper, of what is wrapped."""
    return type(getattr(network, "network", network)).__name__


def check_last_linear(network: nn.Module) -> nn.Linear:
    """Return the layer that ``network.last_linear`` names.

    Raises:
        ValueError: If it is not a linear layer of the network; the message lists those.
    """
    name = network.last_linear
    layer = dict(network.named_modules()).get(str(name))
    if not isinstance(layer, nn.Linear):
        raise InvalidInput(
            f"last_linear must name a linear layer of {network_name(network)} "
            f"({linear_layer_names(network)}), got {str(name).removeprefix('network.')!r}."
        )
    return layer


def linear_layer_names(network: nn.Module) -> str:
    """List a network's linear layers for messages, the last registered first."""
    inside = getattr(network, "network", network)
    names = [name for name, module in inside.named_modules() if isinstance(module, nn.Linear)]
    shown = ", ".join(name or "itself" for name in names[::-1][:8])
    return f"{shown}, ..." if len(names) > 8 else shown or "it has none"


def features_and_logits(
    predict: Predict, images: Images
) -> tuple[Float[Tensor, "batch size"], Logits]:
    """Return penultimate features and logits of one forward pass.

    Args:
        predict: A network, or a ``functools.partial`` of one, as methods give it to objectives.
        images: Images in [0, 1].

    Returns:
        Features and logits; gradients flow through both.

    Raises:
        ValueError: If ``predict`` is not a network, has no linear layer, or its last one did not
            run exactly once on a batch of vectors.

    Example:
        >>> import torch
        >>> from equipoise.models import WideResNet
        >>> network = WideResNet(depth=10, width=1, classes=10)
        >>> features, logits = features_and_logits(network, torch.rand(2, 3, 32, 32))
        >>> features.shape, logits.shape
        (torch.Size([2, 64]), torch.Size([2, 10]))
    """
    features, _, logits = read_last_linear(predict, images)
    return features, logits


def read_last_linear(
    predict: Predict, images: Images
) -> tuple[Float[Tensor, "batch size"], Tensor, Logits]:
    """Run a network and record the input and output of its last linear layer.

    Args:
        predict: A network, or a ``functools.partial`` of one.
        images: Images in [0, 1].

    Returns:
        The layer's input, the layer's output, and what ``predict`` returned.

    Raises:
        ValueError: As ``features_and_logits``.
    """
    network = _network_behind(predict)
    if isinstance(predict, Recalled):
        predict = predict.predict  # remembered logits have no features
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def record(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        inputs.append(arguments[0])
        outputs.append(output)

    hook = find_last_linear(network).register_forward_hook(record)
    try:
        logits = predict(images)
    finally:
        hook.remove()
    if len(inputs) != 1 or inputs[0].ndim != 2:
        raise InvalidInput(
            f"the last linear layer of {network_name(network)} must run once on a batch of "
            f"feature vectors, got {[tuple(features.shape) for features in inputs]}."
        )
    return inputs[0], outputs[0], logits


def _network_behind(predict: Predict) -> nn.Module:
    network = function_behind(predict)
    if not isinstance(network, nn.Module):
        raise InvalidInput(
            "penultimate features need an nn.Module, or a functools.partial of one, got "
            f"{type(network).__name__}, whose layers cannot be read."
        )
    return network
