"""Batch norms folded into convolutions: what a training attack differentiates.

Under attack in eval mode a batch norm is a fixed affine map. Where it alone reads a convolution, it
becomes part of that one's weights, for the time of the attack.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.models.afa.branches import Branch, RoutedNorm
from equipoise.models.attack_mode.folded_forward import Block, Conv, Entry, Folded, Plan
from equipoise.models.attack_mode.structure import (
    BlockStructure,
    ConvAndNorm,
    Structure,
    structure_of,
)
from equipoise.models.batch_norms import scale_and_shift

_Affine = tuple[Tensor, Tensor]
"""A frozen norm: one scale and one shift a channel."""


def fold_batch_norms(network: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """A forward pass for an attack, of weights and statistics as they are at its first call.

    It computes what the network does in eval mode, up to rounding, and its gradient reaches the
    images alone. In a ``BranchedNetwork`` it follows the branch of the call.

    Args:
        network: A backbone; its attributes ``normalise`` and ``linear`` are called as they are.

    Returns:
        The pass, or ``None`` where the network cannot be folded, see ``structure_of``.
    """
    structure = structure_of(network)
    if structure is None:
        return None
    whole: Any = network
    first: Any = structure.stem[0]
    original = type(network).forward
    routes = [child.route for child in network.modules() if isinstance(child, RoutedNorm)]
    plans: dict[tuple[int, torch.dtype], Plan] = {}

    def plan(branch: int, dtype: torch.dtype) -> Plan:
        if (branch, dtype) not in plans:
            with torch.no_grad():
                plans[branch, dtype] = _plan(structure, branch, dtype)
        return plans[branch, dtype]

    def forward(images: Tensor) -> Tensor:
        branch: Branch | None = routes[0].branch if routes else 0
        route = (branch,) if isinstance(branch, int) else branch
        if network.training or not route or not _fit(images, first, len(route)):
            found: Tensor = original(network, images)  # which refuses what is to be refused
            return found
        dtype, kind = images.dtype, images.device.type
        if dtype != torch.float64 and torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        normalised = whole.normalise(images).to(dtype)
        pooled = [
            Folded.apply(part, plan(k, dtype))
            for k, part in zip(route, normalised.chunk(len(route)), strict=True)
        ]
        logits: Tensor = whole.linear(torch.cat(pooled) if len(pooled) > 1 else pooled[0])
        return logits

    return forward


def _fit(images: Tensor, first: Any, groups: int) -> bool:
    """Whether the network would take these images."""
    return (
        images.ndim == 4
        and len(images) > 0
        and len(images) % groups == 0
        and images.shape[1] == first.in_channels
        and min(images.shape[2:]) >= 8
        and images.dtype == first.weight.dtype
    )


def _plan(structure: Structure, branch: int, dtype: torch.dtype) -> Plan:
    """Fold every norm that can be."""
    blocks = structure.blocks
    # What puts out features: the stem, then each block. Who alone reads them, and may go into it.
    readers = [block.entry if _alone(block) else None for block in blocks] + [structure.norm]
    takes = [structure.stem[1] is None] + [
        block.shortcut is not None and not block.exit for block in blocks
    ]
    after = [reader if take else None for reader, take in zip(readers, takes, strict=True)]

    def conv(pair: ConvAndNorm, then: nn.Module | None = None, shift: bool = True) -> Conv:
        norms = [
            None if norm is None else scale_and_shift(_of_branch(norm, branch))
            for norm in (pair[1], then)
        ]
        return _conv(pair[0], norms[0], norms[1], shift, dtype)

    def entry(norm: nn.Module | None, folded: nn.Module | None) -> Entry | None:
        if norm is None or folded is not None:
            return None
        own = _of_branch(norm, branch)
        scale, _ = scale_and_shift(own)
        affine = (own.weight.clone(), own.bias.clone()) if own.affine else (None, None)
        return Entry(
            (own.running_mean.clone(), own.running_var.clone()),
            affine,
            own.eps,
            scale.to(dtype)[:, None, None],
        )

    return Plan(
        stem=conv(structure.stem, after[0]),
        active=structure.stem[1] is not None or after[0] is not None,
        blocks=tuple(
            Block(
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
        exit=entry(structure.norm, after[-1]),
    )


def _alone(block: BlockStructure) -> bool:
    """Whether nothing reads a block's input but its first norm."""
    return block.shortcut is not None and block.reads_active


def _of_branch(norm: nn.Module, branch: int) -> Any:
    return norm.norm.own(branch) if isinstance(norm, RoutedNorm) else norm


def _conv(
    made: Any, own: _Affine | None, then: _Affine | None, shift: bool, dtype: torch.dtype
) -> Conv:
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
    return Conv(
        weight.to(dtype, copy=True),  # in the layout of the convolution's own
        None if bias is None else bias.to(dtype, copy=True),
        *(made.stride, made.padding, made.dilation),
        made.groups,
    )
