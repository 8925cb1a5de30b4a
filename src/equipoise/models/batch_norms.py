"""Which batch norms can be replaced, and why a network has none that can."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from equipoise.models.last_linear import network_name

BatchNorm = nn.BatchNorm2d | nn.SyncBatchNorm
"""The norms that AFA branches and OAT conditions."""


def scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """A batch norm at its running statistics as one affine map, a scale and a shift a channel."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift + norm.bias if norm.affine else shift


def check_norms(network: nn.Module, purpose: str) -> None:
    """Refuse a network whose batch norms cannot all be replaced, and say what it has instead.

    Args:
        network: Searched with all its descendants.
        purpose: What the norms are for and who asks, such as ``"branch: AFA"``.

    Raises:
        ValueError: If it has no ``nn.BatchNorm2d`` or ``nn.SyncBatchNorm``, or others beside.
    """
    kind, who = network_name(network), purpose.rpartition(" ")[2]
    modules = [(name or "its top", module) for name, module in network.named_modules()]
    written = [f"{type(m).__name__} at {name}" for name, m in modules if _normalises_itself(m)]
    if written:
        raise ValueError(
            f"{kind} does batch norm in code of its own ({_some(written)}), which cannot be "
            f"replaced from outside, so all images would share it. For {who}, hold an "
            "nn.BatchNorm2d module there and call it. AFS stacks the network as it is."
        )
    others = [
        f"{type(m).__name__} at {name}"
        for name, m in modules
        if isinstance(m, _BatchNorm) and not isinstance(m, BatchNorm)
    ]
    if others:
        raise ValueError(
            f"{kind} has batch norms that are no nn.BatchNorm2d ({_some(others)}), so all images "
            f"would share them. For {who}, use nn.BatchNorm2d on maps of shape (batch, channel, 1, "
            "1), or no norm there. AFS stacks the network as it is."
        )
    if not any(isinstance(module, BatchNorm) for _, module in modules):
        norms = sorted({type(m).__name__ for _, m in modules if "norm" in type(m).__name__.lower()})
        instead = f" (its norms: {', '.join(norms)})" if norms else ""
        raise ValueError(
            f"{kind} has no nn.BatchNorm2d{instead}, so there is nothing to {purpose} needs batch "
            "norms. AFS stacks any network."
        )


def replace_modules(network: nn.Module, kind: Any, make: Any) -> None:
    """Replace every submodule of a type, in place.

    Args:
        network: Searched with all its descendants.
        kind: The type, or union of types, to replace.
        make: Called with each such module, once even where it is shared; returns what stands there.
    """
    made: dict[nn.Module, nn.Module] = {}
    places = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent._modules.items()  # not named_children: it skips a second name
        if isinstance(child, kind)
    ]
    for parent, name, child in places:
        assert child is not None  # isinstance above
        if child not in made:
            made[child] = make(child)
        setattr(parent, name, made[child])


def _normalises_itself(module: nn.Module) -> bool:
    """Whether a module that is no norm of torch's calls ``batch_norm`` or keeps its statistics."""
    if isinstance(module, _NormBase):
        return False
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    calls = code is not None and "batch_norm" in code.co_names
    return calls or "running_mean" in module._buffers


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
