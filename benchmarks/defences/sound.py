"""Sound models, whose own gradient is honest."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from defences.base import (
    CLASSES,
    Defence,
    Forward,
    attacked,
    cnn,
    cross_entropy,
    network,
    pgd_at,
    robust,
    shape,
    standard,
    straight_through,
    trained,
)


class Sound(Defence):
    """A network, its logits changed by an honest function.

    Args:
        net: The network.
        change: Function that changes the logits.
        fallback: A network in ordinary float32 with the same predictions, which the attacker
            attacks too; for networks in low precision.
    """

    def __init__(
        self,
        net: nn.Module,
        change: Callable[[Tensor], Tensor] | None = None,
        fallback: nn.Module | None = None,
    ) -> None:
        super().__init__(net)
        self.change = change
        self.fallback = [] if fallback is None else [fallback]  # a list: not among the weights

    def forward(self, images: Tensor) -> Tensor:
        logits = self.net(images)
        return logits if self.change is None else self.change(logits)

    def attack_views(self) -> dict[str, Forward]:
        views: dict[str, Forward] = {"own gradient": self.forward}
        if self.change is not None:
            views["before the change"] = self.net
        if self.fallback:
            views["in float32"] = self.fallback[0]
        return views


def standard_training() -> nn.Module:
    return Sound(standard())


def convolutional() -> nn.Module:
    return Sound(trained("cnn", cnn))


def linear() -> nn.Module:
    channels, height, width = shape()
    build = lambda: nn.Sequential(  # noqa: E731
        nn.Flatten(), nn.Linear(channels * height * width, CLASSES)
    )
    return Sound(trained("linear", build))


def pgd_trained() -> nn.Module:
    return Sound(robust())


def pgd_trained_cnn() -> nn.Module:
    return Sound(trained("robust-cnn", cnn, pgd_at))


def _divergence(net: nn.Module, points: Tensor, clean: Tensor) -> Tensor:
    wanted = net(clean).log_softmax(dim=1)
    found = net(points).log_softmax(dim=1)
    return functional.kl_div(found, wanted, reduction="batchmean", log_target=True)


def _trades(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    def away(net: nn.Module, points: Tensor, _: Tensor) -> Tensor:
        return _divergence(net, points, images)

    points = attacked(net, images, labels, away)
    return cross_entropy(net, images, labels) + 6 * _divergence(net, points, images)


def trades() -> nn.Module:
    return Sound(trained("trades", network, _trades))


def fifty_times() -> nn.Module:
    return Sound(standard(), lambda logits: 50 * logits)


def thousand_times() -> nn.Module:
    return Sound(standard(), lambda logits: 1000 * logits)


def thousand_times_robust() -> nn.Module:
    return Sound(robust(), lambda logits: 1000 * logits)


def cold() -> nn.Module:
    """The last layer divided by a temperature of 20."""
    return Sound(robust(), lambda logits: logits / 20)


def shifted() -> nn.Module:
    """A constant added to all logits of an image."""
    return Sound(robust(), lambda logits: logits + 30)


def log_probabilities() -> nn.Module:
    return Sound(robust(), lambda logits: logits.log_softmax(dim=1))


class _Mean(nn.Module):
    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([member(images) for member in self.members]).mean(dim=0)


def ensemble() -> nn.Module:
    return Sound(_Mean([standard(seed) for seed in range(3)]))


def robust_ensemble() -> nn.Module:
    return Sound(_Mean([robust(seed) for seed in range(3)]))


def silu() -> nn.Module:
    return Sound(trained("silu", lambda: network(nn.SiLU)))


def gelu() -> nn.Module:
    return Sound(trained("gelu", lambda: network(nn.GELU), pgd_at))


def leaky() -> nn.Module:
    return Sound(trained("leaky", lambda: network(nn.LeakyReLU)))


def tanh() -> nn.Module:
    return Sound(trained("tanh", lambda: network(nn.Tanh)))


def group_norm() -> nn.Module:
    build = lambda: cnn(norm=lambda channels: nn.GroupNorm(4, channels))  # noqa: E731
    return Sound(trained("group-norm", build))


def running_batch_norm() -> nn.Module:
    return Sound(trained("running-batch-norm", lambda: cnn(norm=nn.BatchNorm2d)))


class _Attention(nn.Module):
    """Patches of 2x2 (4x4 for larger images), one attention layer, the mean of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        channels, height, width = shape()
        patch = 2 if height <= 8 else 4
        tokens = (height // patch) * (width // patch)
        self.embed = nn.Conv2d(channels, 32, patch, stride=patch)
        self.place = nn.Parameter(0.02 * torch.randn(tokens, 32))
        self.layer = nn.TransformerEncoderLayer(
            32, 4, dim_feedforward=64, dropout=0.0, batch_first=True, norm_first=True
        )
        self.head = nn.Linear(32, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.place
        return self.head(self.layer(tokens).mean(dim=1))


def attention() -> nn.Module:
    return Sound(trained("attention", _Attention))


def dropout_in_training() -> nn.Module:
    def build() -> nn.Module:
        net = network()
        net.insert(len(net) - 1, nn.Dropout(0.3))
        return net

    return Sound(trained("dropout", build))


class _Cast(nn.Module):
    """A network that computes and answers in another precision."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = copy.deepcopy(net).to(dtype), dtype

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.to(self.dtype))


def double() -> nn.Module:
    return Sound(_Cast(standard(), torch.float64), fallback=standard())


def half() -> nn.Module:
    return Sound(_Cast(robust(), torch.float16), fallback=robust())


def brain_float() -> nn.Module:
    net = _Cast(robust(), torch.bfloat16)
    return Sound(net, lambda logits: logits.float(), fallback=robust())


class _Levels(nn.Module):
    """Rounds images to some levels, with the straight-through gradient."""

    def forward(self, images: Tensor) -> Tensor:
        return straight_through(images, torch.round(images * 15) / 15)


def straight_through_levels() -> nn.Module:
    return Sound(nn.Sequential(_Levels(), standard()), fallback=standard())


def straight_through_levels_robust() -> nn.Module:
    return Sound(nn.Sequential(_Levels(), robust()), fallback=robust())


class _Normalised(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return (images - 0.3) / 0.35


def normalised() -> nn.Module:
    return Sound(trained("normalised", lambda: nn.Sequential(_Normalised(), *network())))


def smooth_filter() -> nn.Module:
    """A fixed blur before the network, which is linear and hides nothing."""

    def build() -> nn.Module:
        return nn.Sequential(nn.AvgPool2d(3, 1, padding=1), *network())

    return Sound(trained("blur", build))
