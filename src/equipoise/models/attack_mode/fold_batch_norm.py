"""Fold frozen batch norms into convolutions for the duration of a training attack.

In eval mode a batch norm is a fixed affine map. If it is the only reader of a convolution's output,
scaling the convolution's weights and shifting its bias does the same work at no cost.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.models.afa.branches import Branch, RoutedNorm
from equipoise.models.attack_mode.folded_forward import (
    FixedConv,
    FoldedBlock,
    FoldedFunction,
    FoldedNetwork,
    NormAndReLU,
)
from equipoise.models.attack_mode.structure import (
    BlockStructure,
    ConvAndNorm,
    Structure,
    structure_of,
)
from equipoise.models.batch_norms import scale_and_shift


def fold_batch_norms(network: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Build a faster forward pass for attacks on a network in eval mode.

    It computes what the network does up to rounding, with the weights and statistics at its first
    call; gradients reach the images alone. In a ``BranchedNetwork`` it follows the branch of the
    call.

    Args:
        network: A backbone; its attributes ``normalise`` and ``linear`` are called unchanged.

    Returns:
        The forward pass, or ``None`` if the network cannot be folded, see ``structure_of``.
    """
    structure = structure_of(network)
    if structure is None:
        return None
    backbone: Any = network
    stem: Any = structure.stem[0]
    original = type(network).forward
    routes = [module.route for module in network.modules() if isinstance(module, RoutedNorm)]
    cache: dict[tuple[int, torch.dtype], FoldedNetwork] = {}

    def folded(branch: int, dtype: torch.dtype) -> FoldedNetwork:
        if (branch, dtype) not in cache:
            with torch.no_grad():
                cache[branch, dtype] = _Folding(structure, branch, dtype).network()
        return cache[branch, dtype]

    def forward(images: Tensor) -> Tensor:
        branch: Branch | None = routes[0].branch if routes else 0
        route = (branch,) if isinstance(branch, int) else branch
        if network.training or not route or not _fit(images, stem, len(route)):
            logits: Tensor = original(network, images)  # which refuses unsuitable images
            return logits
        dtype, device = images.dtype, images.device.type
        if dtype != torch.float64 and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        groups = backbone.normalise(images).to(dtype).chunk(len(route))
        pooled = [
            FoldedFunction.apply(group, folded(k, dtype))
            for k, group in zip(route, groups, strict=True)
        ]
        logits = backbone.linear(torch.cat(pooled) if len(pooled) > 1 else pooled[0])
        return logits

    return forward


def _fit(images: Tensor, stem: Any, groups: int) -> bool:
    """Whether the network accepts these images."""
    return (
        images.ndim == 4
        and len(images) > 0
        and len(images) % groups == 0
        and images.shape[1] == stem.in_channels
        and min(images.shape[2:]) >= 8
        and images.dtype == stem.weight.dtype
    )


class _Folding:
    """Folds the norms of one branch of a network, in one precision."""

    def __init__(self, structure: Structure, branch: int, dtype: torch.dtype) -> None:
        self.structure, self.branch, self.dtype = structure, branch, dtype

    def network(self) -> FoldedNetwork:
        """Fold every norm that can be folded."""
        structure = self.structure
        absorbed = self._absorbed()
        return FoldedNetwork(
            stem=self._conv(structure.stem, absorbed[0]),
            stem_relu=structure.stem[1] is not None or absorbed[0] is not None,
            blocks=tuple(
                self._block(block, before, after)
                for block, (before, after) in zip(structure.blocks, pairwise(absorbed), strict=True)
            ),
            final_norm=None if absorbed[-1] is not None else self._norm(structure.final_norm),
        )

    def _absorbed(self) -> list[nn.Module | None]:
        """For the stem and each block: the next norm, if the convolutions before it absorb it.

        They can if their sum is read by that norm alone, and no ReLU or identity shortcut is part
        of the sum.
        """
        structure, blocks = self.structure, self.structure.blocks
        norms = [block.entry_norm if _only_norm_reads_input(block) else None for block in blocks]
        absorbs = [structure.stem[1] is None] + [
            block.shortcut is not None and not block.final_relu for block in blocks
        ]
        return [
            norm if can_absorb else None
            for norm, can_absorb in zip([*norms, structure.final_norm], absorbs, strict=True)
        ]

    def _block(
        self, block: BlockStructure, before: nn.Module | None, after: nn.Module | None
    ) -> FoldedBlock:
        """Fold a block; ``before`` is its entry norm if that is absorbed, ``after`` the next."""
        *convs, last = block.convs
        return FoldedBlock(
            entry_norm=None if before is not None else self._norm(block.entry_norm),
            convs=(*(self._conv(pair) for pair in convs), self._conv(last, after)),
            # The shift of the next norm must enter the sum once, so only the chain gets it.
            shortcut=block.shortcut and self._conv(block.shortcut, after, shift=False),
            activated_shortcut=block.activated_shortcut,
            final_relu=block.final_relu or after is not None,
        )

    def _conv(
        self, pair: ConvAndNorm, after: nn.Module | None = None, shift: bool = True
    ) -> FixedConv:
        """Fold a convolution's own norm, then the norm ``after`` the sum that it is part of."""
        conv: Any = pair[0]
        weight, bias = conv.weight, conv.bias
        for norm, shifts in ((pair[1], True), (after, shift)):
            if norm is not None:
                scale, offset = scale_and_shift(self._of_branch(norm))
                weight = weight * scale[:, None, None, None]
                bias = None if bias is None else bias * scale
                if shifts:
                    bias = offset if bias is None else bias + offset
        return FixedConv(
            weight.to(self.dtype, copy=True),  # which keeps the memory layout
            None if bias is None else bias.to(self.dtype, copy=True),
            *(conv.stride, conv.padding, conv.dilation, conv.groups),
        )

    def _norm(self, module: nn.Module | None) -> NormAndReLU | None:
        """Copy a norm that cannot be folded."""
        if module is None:
            return None
        norm = self._of_branch(module)
        scale, _ = scale_and_shift(norm)
        affine = (norm.weight.clone(), norm.bias.clone()) if norm.affine else (None, None)
        return NormAndReLU(
            (norm.running_mean.clone(), norm.running_var.clone()),
            affine,
            norm.eps,
            scale.to(self.dtype)[:, None, None],
        )

    def _of_branch(self, norm: nn.Module) -> Any:
        return norm.norm.norm_view(self.branch) if isinstance(norm, RoutedNorm) else norm


def _only_norm_reads_input(block: BlockStructure) -> bool:
    """Whether only the entry norm reads a block's input."""
    return block.shortcut is not None and block.activated_shortcut
