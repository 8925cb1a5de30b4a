"""The cost of a network: parameters and multiply-adds."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from equipoise.models.afa.fused_batch_norm import FusedBatchNorm2d


def count_parameters(network: nn.Module) -> int:
    """Count a network's parameters, frozen ones included.

    Buffers are left out, except for the affine maps of AFA's fused norms: they hold gamma and beta
    of both branches, which are parameters before the statistics are folded into them.

    Args:
        network: Any network.

    Returns:
        The number of scalars.

    Source:
        AFS Table VI, "Para. (M)". AFA prints no size; a fused network of it has as many parameters
        as the dual-BN network of its Fig. 4(b).

    Example:
        >>> from torch import nn
        >>> count_parameters(nn.Linear(3, 2))
        8
    """
    affine = [
        buffer
        for module in network.modules()
        if isinstance(module, FusedBatchNorm2d)
        for buffer in module.buffers()
    ]
    return sum(values.numel() for values in (*network.parameters(), *affine))


def count_multiply_adds(
    network: nn.Module, shape: Sequence[int], call: Callable[..., Any] | None = None
) -> int:
    """Count the multiply-adds of convolutions and linear layers for one image, by running one.

    Norms, activations and pooling are left out; they are a thousandth of WRN-28-10. On the meta
    device nothing is computed and no memory is needed.

    Args:
        network: A network on any device; its mode is kept.
        shape: Shape of an image: channels, height, width.
        call: How to call the network if it takes more than images, such as
            ``partial(network, branch=0)``.

    Returns:
        The number of multiply-adds.

    Source:
        AFS Table VI, "Flops (G)", counts multiply-adds; it also counts norms, at two for each
        feature.

    Example:
        >>> from torch import nn
        >>> count_multiply_adds(nn.Conv2d(3, 5, 3, padding=1), shape=(3, 8, 8))  # 8 x 8 x 3 x 5 x 9
        8640
    """
    like = next(network.parameters())
    images = torch.zeros(1, *shape, device=like.device, dtype=like.dtype)
    with _eval_mode(network), torch.no_grad(), FlopCounterMode(display=False) as counter:
        (call or network)(images)
    return counter.get_total_flops() // 2


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
