"""A linear model of two classes, whose robust accuracy has a formula."""

import torch
from tiny import linear, split
from torch import nn

from equipoise.data import Split


def exact(model: nn.Module, data: Split, epsilon: float, norm: float) -> torch.Tensor:
    """Return the worst-case margin of a two-class linear model, per image: robust if above 0."""
    layer = model[-1]
    weight = layer.weight[0] - layer.weight[1]
    bias = layer.bias[0] - layer.bias[1]
    side = 1 - 2 * data.labels
    margin = side * (data.images.flatten(1) / 255 @ weight + bias)
    dual = weight.abs().sum() if norm == float("inf") else weight.norm()
    return (margin - epsilon * dual).detach()


def grey(count: int = 200) -> Split:
    """Return images so grey that clamping to [0, 1] changes nothing at epsilons up to 0.2."""
    data = split(count, classes=2)
    images = 60 + (data.images % 130)
    model = linear(2)
    with torch.no_grad():
        labels = model(images.float() / 255).argmax(dim=1)
    return Split(images=images, labels=labels, classes=2)
