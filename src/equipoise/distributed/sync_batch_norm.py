"""Batch norms whose statistics are those of the images of all processes."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that, in train mode, normalises by mean and variance over all processes' images.

    In eval mode it is ``nn.BatchNorm2d``, and inside an attack too: an attack in train mode sees
    the statistics of its own process's images, so that no attack ever waits for another process.
    A process may have no images at all; it still takes part.

    Shape:
        Input and output ``(batch, channel, height, width)``.

    Source:
        ``torch.nn.SyncBatchNorm`` computes the same and runs on GPUs alone. Each process sends
        count, mean and sum of squared deviations in one reduction that gradients flow through.
    """

    alone = False  # inside an attack

    def forward(self, input: Tensor) -> Tensor:
        """Normalise."""
        if not reduces(self):
            return super().forward(input)
        features = input.to(torch.promote_types(input.dtype, torch.float32))
        axes, shape = (0, 2, 3), (1, -1, 1, 1)
        count = input.numel() // self.num_features
        mean = features.sum(axes) / max(1, count)
        deviations = (features - mean.view(shape)).square().sum(axes)
        own = torch.cat([mean.new_tensor([count]), mean, deviations])
        parts = own.new_zeros(distributed.get_world_size(), len(own))
        parts[distributed.get_rank()] = own
        counts, means, deviations = _Sum.apply(parts).split([1, *[self.num_features] * 2], dim=1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total.clamp_min(1)
        deviation = (deviations + counts * (means - mean).square()).sum(0)
        variance = deviation / total.clamp_min(1)
        self._move(mean, deviation / (total - 1).clamp_min(1), total > 0)
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        found = (features - mean.view(shape)) * scale.view(shape)
        if self.affine:
            found = found + self.bias.view(shape)
        return found.to(input.dtype)

    @torch.no_grad()
    def _move(self, mean: Tensor, variance: Tensor, seen: Tensor) -> None:
        """Let the running statistics follow, as ``nn.BatchNorm2d`` does, if any image was seen."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None  # a norm with running statistics counts
        self.num_batches_tracked += seen
        share = seen * (self.momentum or 0.0)
        if self.momentum is None:
            share = seen / self.num_batches_tracked.clamp_min(1)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _Sum(torch.autograd.Function):
    """The sum of every process's tensor, and of every process's gradient of it."""

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
    """Whether a norm in a module would speak to the other processes now."""
    return any(
        isinstance(norm, SyncedBatchNorm2d) and norm.training and not norm.alone
        for norm in module.modules()
    )


@contextlib.contextmanager
def synchronised(module: nn.Module) -> Iterator[None]:
    """Inside, every plain ``nn.BatchNorm2d`` of a module is a ``SyncedBatchNorm2d``.

    The norms stay the objects they are, with their parameters, statistics and hooks.

    Args:
        module: In place.

    Returns:
        A context manager.
    """
    norms = [norm for norm in module.modules() if type(norm) is nn.BatchNorm2d]
    for norm in norms:
        norm.__class__ = SyncedBatchNorm2d
    try:
        yield
    finally:
        for norm in norms:
            norm.__class__ = nn.BatchNorm2d
