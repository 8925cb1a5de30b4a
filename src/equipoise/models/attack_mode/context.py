"""In which mode a network stands while it is attacked, and how it gets back."""

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
    """Put a network into the mode its attack sees; afterwards everything is as it was.

    Restores the mode of *every* submodule (a blanket ``.train()`` would wake frozen norms),
    ``requires_grad`` of every parameter, and every buffer: running statistics never move in an
    attack. Norms that share their statistics among processes keep to themselves meanwhile. In eval
    mode a plain ``nn.BatchNorm2d`` has a faster backward pass meanwhile, which takes no sums for
    parameters that get no gradient: the same bits in float32, rounding apart in lower precisions.

    Args:
        module: The network.
        mode: ``"eval"`` uses running statistics, as TRADES, MART and OAT do; ``"train"`` the
            attacked batch's own, as Madry, Rice and AFS do, without keeping them.
        fold: In eval mode, let networks that can be folded run as ``fold_batch_norms`` has
            them: faster, the same up to rounding. For searches, not for scores.

    Returns:
        A context manager.
    """
    modes = {child: child.training for child in module.modules()}
    synced = [child for child in modes if isinstance(child, SyncedBatchNorm2d)]
    wanted = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    frozen: list[Any] = []
    folded: list[Any] = []
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()] if mode == "train" else []
    try:
        module.train(mode == "train")
        for norm in synced:
            norm.alone = True
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        if mode == "eval":
            passes = {child: fold_batch_norms(child) for child in modes} if fold else {}
            folded = [child for child, found in passes.items() if found is not None]
            for network in folded:
                network.forward = passes[network]
            frozen = [child for child in module.modules() if _is_plain(child)]
            for norm in frozen:
                norm.forward = partial(_frozen, norm, *_factors(norm))
        yield
    finally:
        for norm in synced:
            norm.alone = False
        for replaced in (*frozen, *folded):
            del replaced.forward
        for child, training in modes.items():
            child.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


class _FrozenNorm(torch.autograd.Function):
    """A batch norm at its running statistics; its gradient is that of the images alone."""

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
        if dtype == inverse.dtype:  # in the order of PyTorch's own, for the same bits
            return (gradient * inverse).mul_(weight), None, None, None
        return gradient * (inverse * weight).to(dtype), None, None, None


def _is_plain(module: nn.Module) -> bool:
    plain = type(module) is nn.BatchNorm2d and "forward" not in vars(module)
    return plain and module.running_var is not None


def _factors(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor | None]:
    """What the gradient is multiplied by: 1 / deviation, and the norm's weight."""
    assert norm.running_var is not None  # _is_plain
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    inverse = (1 / deviation).to(norm.running_var.dtype)[:, None, None]
    return inverse, norm.weight.detach()[:, None, None] if norm.affine else None


def _frozen(
    norm: nn.BatchNorm2d, inverse: Tensor, weight: Tensor | None, features: Tensor
) -> Tensor:
    if norm.training:
        return nn.BatchNorm2d.forward(norm, features)
    found: Tensor = _FrozenNorm.apply(features, norm, inverse, weight)
    return found
