"""In which mode a network stands while it is attacked, and how it gets back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from equipoise.models.synced import SyncedBatchNorm2d

Mode = Literal["eval", "train"]


@contextmanager
def attack_mode(module: nn.Module, mode: Mode = "eval") -> Iterator[None]:
    """Put a network into the mode its attack sees; afterwards everything is as it was.

    Restores the mode of *every* submodule (a blanket ``.train()`` would wake frozen norms),
    ``requires_grad`` of every parameter, and every buffer: running statistics never move in an
    attack. Norms that share their statistics among processes keep to themselves meanwhile.

    Args:
        module: The network.
        mode: ``"eval"`` uses running statistics, as TRADES, MART and OAT do; ``"train"`` the
            attacked batch's own, as Madry, Rice and AFS do, without keeping them.

    Returns:
        A context manager.
    """
    modes = {child: child.training for child in module.modules()}
    synced = [child for child in modes if isinstance(child, SyncedBatchNorm2d)]
    wanted = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()] if mode == "train" else []
    try:
        module.train(mode == "train")
        for norm in synced:
            norm.alone = True
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for norm in synced:
            norm.alone = False
        for child, training in modes.items():
            child.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
