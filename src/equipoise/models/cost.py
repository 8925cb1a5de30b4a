"""What a network costs: parameters and multiply-adds."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(network: nn.Module) -> int:
    """Numbers that training can change, or could before they were frozen; buffers are not counted.

    Returns:
        The count.
    """
    return sum(parameter.numel() for parameter in network.parameters())


def count_multiply_adds(
    network: nn.Module, shape: Sequence[int], call: Callable[..., Any] | None = None
) -> int:
    """Multiply-adds of convolutions and linear layers for one image, by running one.

    Norms, activations and pooling are left out: of WRN-28-10 they are a thousandth. On the meta
    device nothing is computed and no memory is needed.

    Args:
        network: On any device; its mode is kept.
        shape: Of an image: channels, height, width.
        call: How the network is called, if not by its images alone, as in
            ``partial(network, branch=0)``.

    Returns:
        The count.

    Source:
        AFS Table VI, "Flops (G)", counts multiply-adds, and norms at two for each feature.
    """
    like = next(network.parameters())
    images = torch.zeros(1, *shape, device=like.device, dtype=like.dtype)
    with _mode_kept(network), torch.no_grad(), FlopCounterMode(display=False) as counter:
        (call or network)(images)
    return counter.get_total_flops() // 2


@contextmanager
def _mode_kept(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
