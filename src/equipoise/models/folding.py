"""Batch norms folded into convolutions: what a training attack differentiates.

Under attack in eval mode a batch norm is a fixed affine map. Where it alone reads a convolution, it
becomes part of that one's weights, and one hand-written backward pass, for the images alone, does
what is left: no sums for parameters, no norms, activations and their gradients in place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from equipoise.models.anatomy import Anatomy, BlockAnatomy, ConvAndNorm
from equipoise.models.branches import Branch, MultiBatchNorm2d, RoutedNorm
from equipoise.models.image_input import Normalise

PLAIN = (
    *(nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Identity, nn.Linear, nn.Sequential, nn.ModuleList),
    *(RoutedNorm, MultiBatchNorm2d, Normalise),
)
"""What a network may consist of, beside its own blocks, to be folded."""
KINDS = ((nn.Conv2d,), (nn.BatchNorm2d, RoutedNorm), (nn.ReLU,))
"""What an anatomy's convolutions, norms and activations must be, and no subclass."""


_Affine = tuple[Tensor, Tensor]
"""A frozen norm: one scale and one shift a channel."""


def folded_forward(network: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """A forward pass for an attack, of the weights and running statistics as they are now.

    It computes what the network does in eval mode, up to rounding, and its gradient reaches the
    images alone. Where the norms are those of ``Branched``, it follows the branch of the call.

    Args:
        network: With a method ``anatomy``, as our backbones have it, an attribute ``normalise`` for
            its images and ``linear`` for its pooled features.

    Returns:
        The pass, or ``None`` where the network cannot be folded: another class or a subclass, other
        activations, modules exchanged or hooked, norms without statistics.
    """
    describe = vars(type(network)).get("anatomy")  # a subclass may compute something else
    if describe is None or not all(_is_foldable(child, network) for child in network.modules()):
        return None
    anatomy: Anatomy | None = describe(network)
    if anatomy is None or not all(
        type(module) in kinds
        for kinds, modules in zip(KINDS, anatomy.modules(), strict=True)
        for module in modules
    ):
        return None
    whole: Any = network
    first: Any = anatomy.stem[0]
    original = type(network).forward
    routes = [child.route for child in network.modules() if isinstance(child, RoutedNorm)]
    plans: dict[tuple[int, torch.dtype], _Plan] = {}

    def plan(branch: int, dtype: torch.dtype) -> _Plan:
        if (branch, dtype) not in plans:
            with torch.no_grad():
                plans[branch, dtype] = _plan(anatomy, branch, dtype)
        return plans[branch, dtype]

    def forward(images: Tensor) -> Tensor:
        branch: Branch | None = routes[0].branch if routes else 0
        route = (branch,) if isinstance(branch, int) else branch
        count, fits = len(images), images.ndim == 4 and images.shape[1] == first.in_channels
        if network.training or not (route and count and fits) or count % len(route):
            found: Tensor = original(network, images)  # which refuses what is to be refused
            return found
        dtype, kind = first.weight.dtype, images.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        normalised = whole.normalise(images).to(dtype)
        pooled = [
            _Folded.apply(part, plan(k, dtype))
            for k, part in zip(route, normalised.chunk(len(route)), strict=True)
        ]
        logits: Tensor = whole.linear(torch.cat(pooled) if len(pooled) > 1 else pooled[0])
        return logits

    return forward


def _is_foldable(module: nn.Module, network: nn.Module) -> bool:
    kind = type(module)
    if kind not in PLAIN and kind.__module__ != type(network).__module__:
        return False
    if isinstance(module, nn.BatchNorm2d) and module.running_var is None:
        return False
    if isinstance(module, nn.Conv2d) and (
        module.padding_mode != "zeros" or isinstance(module.padding, str)
    ):
        return False
    if module is network or isinstance(module, nn.Linear):
        return "forward" not in vars(module)  # both are called as they are, hooks included
    hooks = (
        *(module._forward_hooks, module._forward_pre_hooks),
        *(module._backward_hooks, module._backward_pre_hooks),
    )
    return not any(hooks) and "forward" not in vars(module)


@dataclass(frozen=True)
class _Conv:
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
class _Entry:
    """A norm that no convolution could take in, and the ReLU after it."""

    norm: Any
    scale: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        norm = self.norm
        statistics = norm.running_mean, norm.running_var
        normed = functional.batch_norm(features, *statistics, norm.weight, norm.bias, eps=norm.eps)
        return normed.relu_()


@dataclass(frozen=True)
class _Block:
    entry: _Entry | None
    convs: tuple[_Conv, ...]
    shortcut: _Conv | None
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
class _Plan:
    stem: _Conv
    active: bool
    blocks: tuple[_Block, ...]
    exit: _Entry | None


class _Folded(torch.autograd.Function):
    """Normalised images to pooled features."""

    @staticmethod
    def forward(context: Any, images: Tensor, plan: _Plan) -> Tensor:
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
        plan: _Plan = context.plan
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


def _plan(anatomy: Anatomy, branch: int, dtype: torch.dtype) -> _Plan:
    """Fold every norm that can be."""
    blocks = anatomy.blocks
    # What puts out features: the stem, then each block. Who alone reads them, and may go into it.
    readers = [block.entry if _alone(block) else None for block in blocks] + [anatomy.norm]
    takes = [anatomy.stem[1] is None] + [
        block.shortcut is not None and not block.exit for block in blocks
    ]
    after = [reader if take else None for reader, take in zip(readers, takes, strict=True)]

    def conv(pair: ConvAndNorm, then: nn.Module | None = None, shift: bool = True) -> _Conv:
        norms = [
            None if norm is None else _scale_and_shift(norm, branch) for norm in (pair[1], then)
        ]
        return _conv(pair[0], norms[0], norms[1], shift, dtype)

    def entry(norm: nn.Module | None, folded: nn.Module | None) -> _Entry | None:
        if norm is None or folded is not None:
            return None
        scale, _ = _scale_and_shift(norm, branch)
        return _Entry(_of_branch(norm, branch), scale.to(dtype)[:, None, None])

    return _Plan(
        stem=conv(anatomy.stem, after[0]),
        active=anatomy.stem[1] is not None or after[0] is not None,
        blocks=tuple(
            _Block(
                entry=entry(block.entry, after[place]),
                convs=(
                    *(conv(pair) for pair in block.convs[:-1]),
                    conv(block.convs[-1], after[place + 1]),
                ),
                shortcut=block.shortcut and conv(block.shortcut, after[place + 1], shift=False),
                reads_active=block.reads_active,
                exit=block.exit or after[place + 1] is not None,
            )
            for place, block in enumerate(blocks)
        ),
        exit=entry(anatomy.norm, after[-1]),
    )


def _alone(block: BlockAnatomy) -> bool:
    """Whether nothing reads a block's input but its first norm."""
    return block.shortcut is not None and block.reads_active


def _of_branch(norm: nn.Module, branch: int) -> Any:
    return norm.norm.norm(branch) if isinstance(norm, RoutedNorm) else norm


def _scale_and_shift(norm: nn.Module, branch: int) -> _Affine:
    own = _of_branch(norm, branch)
    scale = torch.rsqrt(own.running_var + own.eps)
    if own.affine:
        scale = scale * own.weight
    shift = -own.running_mean * scale
    return scale, shift + own.bias if own.affine else shift


def _conv(
    made: Any, own: _Affine | None, then: _Affine | None, shift: bool, dtype: torch.dtype
) -> _Conv:
    """A convolution, its own norm and one that reads a sum it is part of.

    Args:
        made: The convolution, an ``nn.Conv2d``.
        own: Of the norm that reads it alone.
        then: Of the norm that reads the sum.
        shift: Whether it is this part of the sum that gets the latter's shift.
        dtype: Of the pass.
    """
    weight, bias = made.weight, made.bias
    for affine, shifts in ((own, True), (then, shift)):
        if affine is not None:
            weight = weight * affine[0][:, None, None, None]
            bias = None if bias is None else bias * affine[0]
            if shifts:
                bias = affine[1] if bias is None else bias + affine[1]
    return _Conv(
        weight.to(dtype),  # in the layout of the convolution's own
        None if bias is None else bias.to(dtype),
        *(made.stride, made.padding, made.dilation),
        made.groups,
    )
