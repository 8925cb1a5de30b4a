"""Context manager that puts a model into attack mode and restores it afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from equipoise.distributed.sync_batch_norm import SyncedBatchNorm2d
from equipoise.models.attack_mode.fold_batch_norm import fold_batch_norms

Mode = Literal["eval", "train"]


@contextmanager
def attack_mode(module: nn.Module, mode: Mode = "eval", fold: bool = False) -> Iterator[None]:
    """Put a model into the mode in which it is attacked, and restore it afterwards.

    Inside the block no parameter requires a gradient. On exit the mode of *every* submodule is
    restored (a blanket ``.train()`` would unfreeze frozen norms), as are ``requires_grad`` of every
    parameter and every buffer, so an attack never moves running statistics. Batch norms that share
    statistics among processes use their own process's batch meanwhile. In eval mode a plain
    ``nn.BatchNorm2d`` gets a faster backward pass that skips the sums for its parameters:
    bit-identical in float32, equal up to rounding in lower precisions.

    Args:
        module: The model.
        mode: ``"eval"`` uses running statistics, as TRADES, MART and OAT do; ``"train"`` uses those
            of the attacked batch, as Madry, Rice and AFS do, without storing them.
        fold: In eval mode, fold batch norms into convolutions where that is possible (see
            ``fold_batch_norms``): faster, and equal up to rounding. Use it to search for
            adversarial images, not to score them.

    Returns:
        A context manager.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
        >>> with attack_mode(model):
        ...     model[1].training, model[0].weight.requires_grad
        (False, False)
        >>> model[1].training, model[0].weight.requires_grad
        (True, True)
    """
    modes = {child: child.training for child in module.modules()}
    synced = [child for child in modes if isinstance(child, SyncedBatchNorm2d)]
    gradients = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()] if mode == "train" else []
    patched: list[Any] = []
    try:
        module.train(mode == "train")
        for norm in synced:
            norm.alone = True
        for parameter, _ in gradients:
            parameter.requires_grad_(False)
        if mode == "eval":
            _patch_forward(module, fold, patched)
        yield
    finally:
        for norm in synced:
            norm.alone = False
        for child in patched:
            del child.forward
        for child, training in modes.items():
            child.training = training
        for parameter, requires_grad in gradients:
            parameter.requires_grad_(requires_grad)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def _patch_forward(module: nn.Module, fold: bool, patched: list[Any]) -> None:
    """Give modules their faster forward passes and append them to ``patched``."""
    modules: list[Any] = list(module.modules())
    folded = {network: fold_batch_norms(network) for network in modules} if fold else {}
    for network, forward in folded.items():
        if forward is not None:
            network.forward = forward
            patched.append(network)
    for norm in [child for child in modules if _is_plain(child)]:
        norm.forward = partial(_frozen_forward, norm, *_gradient_factors(norm))
        patched.append(norm)


class _FrozenNorm(torch.autograd.Function):
    """A batch norm at its running statistics, with a gradient for its input alone."""

    @staticmethod
    def forward(
        context: Any, features: Tensor, norm: nn.BatchNorm2d, inverse: Tensor, weight: Tensor | None
    ) -> Tensor:
        context.inverse, context.weight = inverse, weight
        return functional.batch_norm(
            features, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        inverse, weight, dtype = context.inverse, context.weight, gradient.dtype
        if weight is None:
            return gradient * inverse.to(dtype), None, None, None
        if dtype == inverse.dtype:  # multiplied in PyTorch's order, to be bit-identical with it
            return (gradient * inverse).mul_(weight), None, None, None
        return gradient * (inverse * weight).to(dtype), None, None, None


def _is_plain(module: nn.Module) -> bool:
    plain = type(module) is nn.BatchNorm2d and "forward" not in vars(module)
    return plain and module.running_var is not None


def _gradient_factors(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor | None]:
    """The factors of the gradient: 1 / standard deviation, and the norm's weight."""
    assert norm.running_var is not None  # _is_plain
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    inverse = (1 / deviation).to(norm.running_var.dtype)[:, None, None]
    return inverse, norm.weight.detach()[:, None, None] if norm.affine else None


def _frozen_forward(
    norm: nn.BatchNorm2d, inverse: Tensor, weight: Tensor | None, features: Tensor
) -> Tensor:
    if norm.training:
        return nn.BatchNorm2d.forward(norm, features)
    result: Tensor = _FrozenNorm.apply(features, norm, inverse, weight)
    return result
