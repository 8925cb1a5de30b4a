"""Checks and replacement of a network's batch norms."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from equipoise.models.last_linear import network_name
from equipoise.runtime.errors import InvalidInput

BatchNorm = nn.BatchNorm2d | nn.SyncBatchNorm
"""The batch norms that AFA branches and OAT conditions."""


def scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """Express a batch norm at its running statistics as an affine map of each channel."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift + norm.bias if norm.affine else shift


def check_norms(network: nn.Module, purpose: str) -> None:
    """Reject a network whose batch norms cannot all be replaced; the message says what it has.

    Args:
        network: Searched with all its descendants.
        purpose: What is done with the norms and which method does it, such as ``"branch: AFA"``.

    Raises:
        ValueError: If the network has no ``nn.BatchNorm2d`` or ``nn.SyncBatchNorm``, or has batch
            norms of other kinds too.
    """
    kind, method = network_name(network), purpose.rpartition(" ")[2]
    modules = [(name or "its top", module) for name, module in network.named_modules()]
    custom = [f"{type(m).__name__} at {name}" for name, m in modules if _normalises_itself(m)]
    if custom:
        raise InvalidInput(
            f"{kind} computes batch norm in its own code ({_first_names(custom)}), which cannot "
            f"be replaced from outside, so all images would share it. For {method}, use an "
            "nn.BatchNorm2d module there. AFS can stack the network as it is."
        )
    others = [
        f"{type(m).__name__} at {name}"
        for name, m in modules
        if isinstance(m, _BatchNorm) and not isinstance(m, BatchNorm)
    ]
    if others:
        raise InvalidInput(
            f"{kind} has batch norms other than nn.BatchNorm2d ({_first_names(others)}), so all "
            f"images would share them. For {method}, use nn.BatchNorm2d on maps of shape (batch, "
            "channel, 1, 1), or no norm there. AFS can stack the network as it is."
        )
    if not any(isinstance(module, BatchNorm) for _, module in modules):
        norms = sorted({type(m).__name__ for _, m in modules if "norm" in type(m).__name__.lower()})
        instead = f" (its norms: {', '.join(norms)})" if norms else ""
        raise InvalidInput(
            f"{kind} has no nn.BatchNorm2d{instead}, so there is nothing to {purpose} needs batch "
            "norms. AFS can stack any network."
        )


def replace_modules(network: nn.Module, kind: Any, make: Any) -> None:
    """Replace every submodule of a type, in place.

    Args:
        network: Searched with all its descendants.
        kind: The type, or union of types, to replace.
        make: Called once with each such module, even if it is shared; returns the replacement.
    """
    replacements: dict[nn.Module, nn.Module] = {}
    attributes = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent._modules.items()  # named_children() skips a second name
        if isinstance(child, kind)
    ]
    for parent, name, child in attributes:
        assert child is not None  # isinstance above
        if child not in replacements:
            replacements[child] = make(child)
        setattr(parent, name, replacements[child])


def _normalises_itself(module: nn.Module) -> bool:
    """Whether a module other than torch's norms calls ``batch_norm`` or keeps its statistics."""
    if isinstance(module, _NormBase):
        return False
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    calls = code is not None and "batch_norm" in code.co_names
    return calls or "running_mean" in module._buffers


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
