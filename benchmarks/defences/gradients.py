"""Defences that return another gradient than the function's."""

from typing import Any

import torch
from torch import Tensor, nn

from defences.base import Defence, Forward, network, off_grid, one_hot, robust, standard


class _WrongBackward(torch.autograd.Function):
    """Logits with the gradient of another network."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, logits: Tensor, decoy: nn.Module) -> Tensor:
        ctx.save_for_backward(images)
        ctx.decoy = decoy
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        with torch.enable_grad():
            points = ctx.saved_tensors[0].detach().requires_grad_(True)
            (found,) = torch.autograd.grad(ctx.decoy(points), points, gradient)
        return found, None, None


class Decoy(Defence):
    """The gradient is an untrained network's."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            self.decoy = [network().eval()]  # in a list, which keeps it out of the weights

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.net(images)
        return _WrongBackward.apply(images, logits, self.decoy[0])


def decoy() -> nn.Module:
    return Decoy(standard())


def decoy_robust() -> nn.Module:
    return Decoy(robust())


class _Detached(Defence):
    """Cuts the graph at the input."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.detach()) + 0 * images.sum()


def detached() -> nn.Module:
    return _Detached(standard())


class _WithoutGraph(Defence):
    """Computes under no_grad, so that the logits require no gradient at all."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.net(images)


def without_graph() -> nn.Module:
    return _WithoutGraph(standard())


class _Changed(torch.autograd.Function):
    """The identity, with a changed gradient.

    ``nan`` makes it NaN, ``reverse`` negates it off the grid of 8 bits, ``noise`` buries it.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, kind: str) -> Tensor:
        ctx.save_for_backward(images)
        ctx.kind = kind
        return images.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (images,) = ctx.saved_tensors
        if ctx.kind == "nan":
            return torch.full_like(gradient, torch.nan), None
        if ctx.kind == "noise":
            return gradient + 5 * gradient.std() * torch.randn_like(gradient), None
        return gradient * (1 - 2 * off_grid(images).float())[:, None, None, None], None


class _BadGradient(Defence):
    def __init__(self, net: nn.Module, kind: str) -> None:
        super().__init__(net)
        self.kind = kind

    def forward(self, images: Tensor) -> Tensor:
        return self.net(_Changed.apply(images, self.kind))


def nan_gradient() -> nn.Module:
    return _BadGradient(standard(), "nan")


def reversed_gradient() -> nn.Module:
    return _BadGradient(standard(), "reverse")


def noisy_gradient() -> nn.Module:
    return _BadGradient(standard(), "noise")


class _HardLabel(Defence):
    """The predicted class alone, with the gradient of very soft probabilities."""

    def forward(self, images: Tensor) -> Tensor:
        logits = self.net(images)
        soft = (logits / 100).softmax(dim=1)
        return 10 * (soft + (one_hot(logits) - soft).detach())


def hard_label() -> nn.Module:
    return _HardLabel(standard())


class _WhileWatched(Defence):
    """An honest answer where no gradient is asked for, and a decoy's gradient where one is."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.watched = Decoy(net)

    def forward(self, images: Tensor) -> Tensor:
        return self.watched(images) if images.requires_grad else self.net(images)


def while_watched() -> nn.Module:
    return _WhileWatched(standard())


class _SinglePrecision(_WhileWatched):
    """The right gradient in float64, where gradients are checked, and a decoy's in float32."""

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype != torch.float64:
            return self.watched(images)
        weights = {name: value.double() for name, value in self.net.named_parameters()}
        return torch.func.functional_call(self.net, weights, (images,))

    def attack_views(self) -> dict[str, Forward]:
        return {"transfer": self.net}


def single_precision() -> nn.Module:
    return _SinglePrecision(standard())
