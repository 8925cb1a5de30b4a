"""What a backbone declares about its layers, so that its batch norms can be folded.

Folding rebuilds the computation from convolutions, norms and ReLUs, so it must know in which order
a network runs them. Our backbones declare it in a method ``structure``; ``structure_of`` checks
that the network still consists of what it declares.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from equipoise.distributed.sync_batch_norm import SyncedBatchNorm2d
from equipoise.models.afa.branches import RoutedNorm

ConvAndNorm = tuple[nn.Module, nn.Module | None]
"""A convolution and the norm that follows it, if any; nothing else reads the convolution."""


@dataclass(frozen=True, kw_only=True)
class BlockStructure:
    """A residual block: a chain of convolutions plus a shortcut.

    The chain is ``[entry norm, ReLU,] conv [, norm] (, ReLU, conv [, norm])...``; a ReLU may follow
    the sum of chain and shortcut.

    Args:
        entry_norm: The norm before the first ReLU of a pre-activation block.
        convs: Each convolution with the norm after it; a ReLU runs between two of them.
        shortcut: The shortcut's convolution and norm; ``None`` for an identity shortcut.
        activated_shortcut: Whether the shortcut's convolution reads the block's input after the
            entry norm and its ReLU; otherwise it reads the input itself.
        final_relu: Whether a ReLU follows the sum.
        activations: The modules that run these ReLUs.
    """

    entry_norm: nn.Module | None = None
    convs: tuple[ConvAndNorm, ...]
    shortcut: ConvAndNorm | None
    activated_shortcut: bool = True
    final_relu: bool
    activations: tuple[nn.Module, ...]


@dataclass(frozen=True, kw_only=True)
class Structure:
    """A network from its normalised images to its pooled features, in order of execution.

    Args:
        stem: The first convolution and its norm; a ReLU follows a norm.
        blocks: The residual blocks.
        final_norm: The norm after the last block, if any; a ReLU follows it.
        activations: The modules that run the ReLUs outside the blocks.
    """

    stem: ConvAndNorm
    blocks: tuple[BlockStructure, ...]
    final_norm: nn.Module | None = None
    activations: tuple[nn.Module, ...]

    def modules(self) -> tuple[list[nn.Module], list[nn.Module], list[nn.Module]]:
        """All convolutions, norms and activations."""
        blocks = self.blocks
        pairs = [self.stem, *(pair for block in blocks for pair in block.convs)]
        pairs += [block.shortcut for block in blocks if block.shortcut is not None]
        norms = [norm for _, norm in pairs] + [block.entry_norm for block in blocks]
        norms.append(self.final_norm)
        relus = [*self.activations, *(relu for block in blocks for relu in block.activations)]
        return [conv for conv, _ in pairs], [norm for norm in norms if norm is not None], relus


_NORMS = (nn.BatchNorm2d, SyncedBatchNorm2d, nn.SyncBatchNorm)
_TYPES: tuple[tuple[Any, ...], ...] = ((nn.Conv2d,), (*_NORMS, RoutedNorm), (nn.ReLU,))
"""Exact types of a structure's convolutions, norms and activations; subclasses are not allowed."""
_CONTAINERS: tuple[Any, ...] = (nn.Sequential, nn.ModuleList, nn.Identity)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def structure_of(network: nn.Module) -> Structure | None:
    """Return a network's structure if the network computes exactly what it declares.

    Args:
        network: Any network; our backbones have a method ``structure``, which returns ``None``
            for settings that cannot be folded.

    Returns:
        The structure; ``None`` if it is unknown: for networks of other classes and of subclasses;
        for networks with replaced, added, patched or hooked modules; for norms without running
        statistics.
    """
    describe = vars(type(network)).get("structure")  # a subclass may compute something else
    structure = describe(network) if callable(describe) else None
    if not isinstance(structure, Structure) or "forward" in vars(network):
        return None
    declared = structure.modules()
    for types, modules in zip(_TYPES, declared, strict=True):
        if not all(type(module) in types for module in modules):
            return None
    folded = {part for modules in declared for module in modules for part in module.modules()}
    backbone: Any = network
    # The folded pass calls these two as they are, so they may be anything, hooks included.
    called = {*backbone.normalise.modules(), *backbone.linear.modules(), network}
    replaced = [module for module in network.modules() if module not in called]
    home = _package(network)  # defines the network's blocks
    for module in replaced:
        is_container = type(module) in _CONTAINERS or _package(module) == home
        if not _is_plain(module) or not (module in folded or is_container):
            return None
    return structure


def _package(module: nn.Module) -> str:
    return type(module).__module__.rpartition(".")[0]


def _is_plain(module: Any) -> bool:
    """Whether a module's class and settings alone determine what it computes."""
    if isinstance(module, _NORMS) and module.running_var is None:
        return False
    if isinstance(module, nn.Conv2d) and (
        module.padding_mode != "zeros" or isinstance(module.padding, str)
    ):
        return False
    return "forward" not in vars(module) and not any(getattr(module, hook) for hook in _HOOKS)


def block_structures(stages: nn.Module, kind: type[nn.Module]) -> tuple[BlockStructure, ...] | None:
    """Collect the structures of a network's blocks, in order of execution.

    Args:
        stages: Should be an ``nn.Sequential`` of ``nn.Sequential`` stages.
        kind: The exact class of every block; it has a method ``structure``.

    Returns:
        The structures, or ``None`` if there is anything else, or a block that cannot be folded.
    """
    if type(stages) is not nn.Sequential:
        return None
    blocks: list[Any] = []
    for stage in stages:
        if type(stage) is not nn.Sequential:
            return None
        blocks += stage  # a shared block as often as it runs
    if any(type(block) is not kind for block in blocks):
        return None
    structures = tuple(block.structure() for block in blocks)
    return None if None in structures else structures
