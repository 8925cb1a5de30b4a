"""Batch norms that use the statistics of the images of all processes."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that, in train mode, normalises by mean and variance over all processes' images.

    In eval mode, and inside an attack, it is a plain ``nn.BatchNorm2d``. An attack in train mode
    uses the statistics of its own process's images, so that no attack waits for another process. A
    process without images still takes part.

    Shape:
        Input and output ``(batch, channel, height, width)``.

    Source:
        ``torch.nn.SyncBatchNorm`` computes the same, but only runs on GPUs. Each process sends
        count, mean and sum of squared deviations in one differentiable reduction.
    """

    alone = False  # True inside an attack

    def forward(self, input: Tensor) -> Tensor:
        """Normalise."""
        if not reduces(self):
            return super().forward(input)
        features = input.to(torch.promote_types(input.dtype, torch.float32))
        axes, shape = (0, 2, 3), (1, -1, 1, 1)
        count = input.numel() // self.num_features
        mean = features.sum(axes) / max(1, count)
        deviations = (features - mean.view(shape)).square().sum(axes)
        local = torch.cat([mean.new_tensor([count]), mean, deviations])
        parts = local.new_zeros(distributed.get_world_size(), len(local))
        parts[distributed.get_rank()] = local
        counts, means, deviations = _Sum.apply(parts).split([1, *[self.num_features] * 2], dim=1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total.clamp_min(1)
        deviation = (deviations + counts * (means - mean).square()).sum(0)
        variance = deviation / total.clamp_min(1)
        self._update_running(mean, deviation / (total - 1).clamp_min(1), total > 0)
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        normalised = (features - mean.view(shape)) * scale.view(shape)
        if self.affine:
            normalised = normalised + self.bias.view(shape)
        return normalised.to(input.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor, seen: Tensor) -> None:
        """Update the running statistics like ``nn.BatchNorm2d``, if any process has images."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None  # set in a norm with running statistics
        self.num_batches_tracked += seen
        share = seen * (self.momentum or 0.0)
        if self.momentum is None:
            share = seen / self.num_batches_tracked.clamp_min(1)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _Sum(torch.autograd.Function):
    """Sum a tensor over processes in the forward pass, and its gradient in the backward pass."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        distributed.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        gradient = gradient.clone()
        distributed.all_reduce(gradient)
        return gradient


def reduces(module: nn.Module) -> bool:
    """Return whether a norm of a module would communicate with other processes now.

    Example:
        >>> reduces(nn.BatchNorm2d(3))
        False
    """
    return any(
        isinstance(norm, SyncedBatchNorm2d) and norm.training and not norm.alone
        for norm in module.modules()
    )


@contextlib.contextmanager
def synchronised(module: nn.Module) -> Iterator[None]:
    """Turn every plain ``nn.BatchNorm2d`` of a module into a ``SyncedBatchNorm2d`` inside.

    The norms stay the same objects, with their parameters, statistics and hooks.

    Args:
        module: Changed in place, and restored on exit.

    Returns:
        A context manager.

    Example:
        >>> network = nn.Sequential(nn.BatchNorm2d(3))
        >>> with synchronised(network):
        ...     type(network[0]).__name__
        'SyncedBatchNorm2d'
        >>> type(network[0]).__name__
        'BatchNorm2d'
    """
    norms = [norm for norm in module.modules() if type(norm) is nn.BatchNorm2d]
    for norm in norms:
        norm.__class__ = SyncedBatchNorm2d
    try:
        yield
    finally:
        for norm in norms:
            norm.__class__ = nn.BatchNorm2d
