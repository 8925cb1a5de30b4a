"""Find a network's last linear layer and read the penultimate features, its input."""

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from equipoise.models.recalled import Recalled, function_behind
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Logits, Predict

LastLinear = nn.Linear | nn.Conv2d
"""A linear layer, or a 1x1 convolution with a global average before or after it."""


def find_last_linear(network: nn.Module) -> LastLinear:
    """Return the linear layer that makes a network's logits.

    If the network has an attribute ``last_linear`` with a dotted name such as ``"classifier.1"``,
    it is that layer; otherwise it is the last ``nn.Linear`` in order of registration, or the last
    1x1 convolution of a network that has none.

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
    layers = [module for module in network.modules() if _is_linear(module)]
    linears = [module for module in layers if isinstance(module, nn.Linear)] or layers
    if not linears:
        raise InvalidInput(
            f"{network_name(network)} has no linear layer, so its penultimate features are "
            "unknown; wrap it so that it ends in nn.Linear."
        )
    return cast(LastLinear, linears[-1])


def as_linear(layer: LastLinear) -> nn.Linear:
    """Return a last linear layer as an ``nn.Linear`` that shares its weights.

    Example:
        >>> as_linear(nn.Conv2d(8, 10, 1))
        Linear(in_features=8, out_features=10, bias=True)
    """
    if isinstance(layer, nn.Linear):
        return layer
    linear = nn.Linear(layer.in_channels, layer.out_channels, bias=layer.bias is not None)
    trains = layer.weight.requires_grad
    linear.weight = nn.Parameter(layer.weight.detach().flatten(1), requires_grad=trains)
    if layer.bias is not None:
        linear.bias = nn.Parameter(layer.bias.detach(), requires_grad=trains)
    return linear


def _is_linear(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d):
        return isinstance(module, nn.Linear)
    plain = module.stride == (1, 1) and module.padding == (0, 0) and module.groups == 1
    return module.kernel_size == (1, 1) and plain


def network_name(network: nn.Module) -> str:
    """Return the name of a network's class for messages; inside a wrapper, of what is wrapped."""
    return type(getattr(network, "network", network)).__name__


def check_last_linear(network: nn.Module) -> LastLinear:
    """Return the layer that ``network.last_linear`` names.

    Raises:
        ValueError: If it is not a linear layer of the network; the message lists those.
    """
    name = network.last_linear
    layer = dict(network.named_modules()).get(str(name))
    if layer is None or not _is_linear(layer):
        raise InvalidInput(
            f"last_linear must name a linear layer of {network_name(network)} "
            f"({linear_layer_names(network)}), got {str(name).removeprefix('network.')!r}."
        )
    return cast(LastLinear, layer)


def linear_layer_names(network: nn.Module) -> str:
    """List a network's linear layers for messages, the last registered first."""
    inside = getattr(network, "network", network)
    names = [name for name, module in inside.named_modules() if _is_linear(module)]
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
        The layer's input, the layer's output, and what ``predict`` returned; of a convolution, the
        means of input and output over the image.

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

    layer = find_last_linear(network)
    hook = layer.register_forward_hook(record)
    try:
        logits = predict(images)
    finally:
        hook.remove()
    if isinstance(layer, nn.Conv2d):
        inputs, outputs = ([part.mean(dim=(2, 3)) for part in parts] for parts in (inputs, outputs))
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
