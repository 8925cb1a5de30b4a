"""The pass of a folded network, forward and back: convolutions, ReLUs, and few norms.

The way back is written by hand: for the images alone, with ReLUs and their gradients in place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


@dataclass(frozen=True)
class Conv:
    """A convolution with constant weights, and its gradient for the input."""

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def skips(self) -> bool:
        """Whether it leaves out pixels: then it is one of stride 1 on those that it reads."""
        return self.weight.shape[2:] == (1, 1) and self.padding == (0, 0) and self.stride != (1, 1)

    def _read(self, features: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        if not self.skips:
            return features, self.stride
        return features[:, :, :: self.stride[0], :: self.stride[1]], (1, 1)

    def __call__(self, features: Tensor) -> Tensor:
        """Convolve."""
        read, stride = self._read(features)
        return functional.conv2d(
            read, self.weight, self.bias, stride, self.padding, self.dilation, self.groups
        )

    def gradient(self, gradient: Tensor, like: Tensor, onto: Tensor | None = None) -> Tensor:
        """For the input, whose shape and layout ``like`` has; added onto a tensor if one is
        given, in place."""
        read, stride = self._read(like)
        found: Tensor = torch.ops.aten.convolution_backward(
            *(gradient, read, self.weight, None, stride, self.padding, self.dilation),
            *(False, [0, 0], self.groups, [True, False, False]),
        )[0]
        if self.skips:
            onto = torch.zeros_like(like) if onto is None else onto
            onto[:, :, :: self.stride[0], :: self.stride[1]].add_(found)
            return onto
        return found if onto is None else onto.add_(found)


@dataclass(frozen=True)
class Entry:
    """A norm that no convolution could take in, and the ReLU after it.

    Args:
        statistics: Running mean and variance.
        affine: Weight and bias, if there are any.
        eps: Of the norm.
        scale: What the gradient is multiplied by.
    """

    statistics: tuple[Tensor, Tensor]
    affine: tuple[Tensor | None, Tensor | None]
    eps: float
    scale: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Normalise and activate."""
        return functional.batch_norm(features, *self.statistics, *self.affine, eps=self.eps).relu_()


@dataclass(frozen=True)
class Block:
    """A residual block, see ``BlockStructure``."""

    entry: Entry | None
    convs: tuple[Conv, ...]
    shortcut: Conv | None
    reads_active: bool
    exit: bool

    def forward(self, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What comes out, and what the way back needs: each ReLU's output."""
        active = features if self.entry is None else self.entry(features)
        kept, hidden = [active], active
        for conv in self.convs[:-1]:
            hidden = conv(hidden).relu_()
            kept.append(hidden)
        read = active if self.reads_active else features
        total = self.convs[-1](hidden)
        total.add_(features if self.shortcut is None else self.shortcut(read))
        if self.exit:
            kept.append(total.relu_())
        return total, kept

    def backward(self, gradient: Tensor, kept: Sequence[Tensor], own: bool) -> Tensor:
        """The gradient for the block's input; ``own`` says that ``gradient`` may be overwritten."""
        if self.exit:
            gradient = _through_relu(gradient, kept[-1], own)
        active, through = kept[0], gradient
        for number in reversed(range(len(self.convs))):
            through = self.convs[number].gradient(through, kept[number])
            if number:
                through = _through_relu(through, kept[number], own=True)
        if self.shortcut is not None and self.reads_active:
            through = self.shortcut.gradient(gradient, active, onto=through)
        if self.entry is not None:
            through = _through_relu(through, active, own=True).mul_(self.entry.scale)
        if self.shortcut is None:
            return through.add_(gradient)
        if not self.reads_active:
            through = self.shortcut.gradient(gradient, active, onto=through)
        return through


@dataclass(frozen=True)
class Plan:
    """A network from normalised images to pooled features; ``active`` says whether a ReLU follows
    the stem."""

    stem: Conv
    active: bool
    blocks: tuple[Block, ...]
    exit: Entry | None


class Folded(torch.autograd.Function):
    """Normalised images to pooled features."""

    @staticmethod
    def forward(context: Any, images: Tensor, plan: Plan) -> Tensor:
        """Features, averaged over their pixels."""
        features = plan.stem(images)
        if plan.active:
            features.relu_()
        kept, counts = [images, features] if plan.active else [images], []
        for block in plan.blocks:
            features, more = block.forward(features)
            kept += more
            counts.append(len(more))
        if plan.exit is not None:
            features = plan.exit(features)
        context.save_for_backward(*kept, features)
        context.plan, context.counts = plan, counts
        return features.mean((2, 3))

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient for the images."""
        plan: Plan = context.plan
        *kept, features = context.saved_tensors
        height, width = features.shape[2:]
        # Every pixel has the same share: a view, which no operation may write to.
        gradient = (gradient / (height * width))[:, :, None, None].expand_as(features)
        own = plan.exit is not None
        if plan.exit is not None:
            gradient = _through_relu(gradient, features, own=False).mul_(plan.exit.scale)
        for block, count in zip(reversed(plan.blocks), reversed(context.counts), strict=True):
            kept, mine = kept[:-count], kept[-count:]
            gradient, own = block.backward(gradient, mine, own), True
        if plan.active:
            gradient = _through_relu(gradient, kept.pop(), own)
        return plan.stem.gradient(gradient, kept[0]), None


def _through_relu(gradient: Tensor, output: Tensor, own: bool) -> Tensor:
    operator = torch.ops.aten.threshold_backward
    if own:
        found: Tensor = operator.grad_input(gradient, output, 0, grad_input=gradient)
        return found
    found = operator(gradient, output, 0)
    return found
