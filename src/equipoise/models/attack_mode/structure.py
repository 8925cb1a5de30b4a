"""What a backbone says of itself, so that its norms can be folded, and whether it is true."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from equipoise.distributed.sync_batch_norm import SyncedBatchNorm2d
from equipoise.models.afa.branches import RoutedNorm

ConvAndNorm = tuple[nn.Module, nn.Module | None]
"""A convolution, and the norm that reads it and nothing else."""


@dataclass(frozen=True, kw_only=True)
class BlockStructure:
    """A residual block with ReLUs: ``[norm, relu,] conv [, norm] (, relu, conv [, norm])...``, plus
    the shortcut ``[, relu]``.

    Args:
        entry: The norm before the first activation of a pre-activation block.
        convs: Each convolution with the norm after it, a ReLU between two of them.
        shortcut: Its convolution and the norm after it; ``None`` where it is the block's input.
        reads_active: Whether the shortcut's convolution reads the block's input after ``entry`` and
            its activation, or before.
        exit: Whether a ReLU follows the sum.
        activations: The modules that stand for its ReLUs.
    """

    entry: nn.Module | None = None
    convs: tuple[ConvAndNorm, ...]
    shortcut: ConvAndNorm | None
    reads_active: bool = True
    exit: bool
    activations: tuple[nn.Module, ...]


@dataclass(frozen=True, kw_only=True)
class Structure:
    """A network between its normalised images and its pooled features, in the order of the pass.

    Args:
        stem: The first convolution and the norm after it; with a norm, a ReLU follows.
        blocks: What comes next.
        norm: The last norm, before a ReLU and the pooling, if there is one.
        activations: The modules that stand for ReLUs outside the blocks.
    """

    stem: ConvAndNorm
    blocks: tuple[BlockStructure, ...]
    norm: nn.Module | None = None
    activations: tuple[nn.Module, ...]

    def modules(self) -> tuple[list[nn.Module], list[nn.Module], list[nn.Module]]:
        """All convolutions, norms and activations."""
        blocks = self.blocks
        pairs = [self.stem, *(pair for block in blocks for pair in block.convs)]
        pairs += [block.shortcut for block in blocks if block.shortcut is not None]
        norms = [norm for _, norm in pairs] + [block.entry for block in blocks] + [self.norm]
        active = [*self.activations, *(each for block in blocks for each in block.activations)]
        return [conv for conv, _ in pairs], [norm for norm in norms if norm is not None], active


_NORMS = (nn.BatchNorm2d, SyncedBatchNorm2d, nn.SyncBatchNorm)
_KINDS: tuple[tuple[Any, ...], ...] = ((nn.Conv2d,), (*_NORMS, RoutedNorm), (nn.ReLU,))
"""What a structure's convolutions, norms and activations must be, and no subclass."""
_HOLDERS: tuple[Any, ...] = (nn.Sequential, nn.ModuleList, nn.Identity)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def structure_of(network: nn.Module) -> Structure | None:
    """What a network consists of, if it is nothing else.

    Args:
        network: Any network; our backbones have a method ``structure``, which returns ``None``
            where nothing is folded.

    Returns:
        The structure; ``None`` where there is none: a network of another class, or of a subclass;
        with modules exchanged, added, patched or hooked; with norms without running statistics.
    """
    describe = vars(type(network)).get("structure")  # a subclass may compute something else
    structure = describe(network) if callable(describe) else None
    if not isinstance(structure, Structure) or "forward" in vars(network):
        return None
    found = structure.modules()
    for kinds, modules in zip(_KINDS, found, strict=True):
        if not all(type(module) in kinds for module in modules):
            return None
    listed = {part for modules in found for module in modules for part in module.modules()}
    whole: Any = network
    called = {*whole.normalise.modules(), *whole.linear.modules(), network}  # hooks and all
    home = type(network).__module__  # of its blocks
    others = [child for child in network.modules() if child not in called]
    holders = [child for child in others if child not in listed]
    if not all(type(each) in _HOLDERS or type(each).__module__ == home for each in holders):
        return None
    return structure if all(_is_plain(child) for child in others) else None


def _is_plain(module: Any) -> bool:
    """Whether nothing but its class decides what a module does."""
    if isinstance(module, _NORMS) and module.running_var is None:
        return False
    if isinstance(module, nn.Conv2d) and (
        module.padding_mode != "zeros" or isinstance(module.padding, str)
    ):
        return False
    return "forward" not in vars(module) and not any(getattr(module, each) for each in _HOOKS)


def blocks_of(stages: nn.Module, kind: type[nn.Module]) -> list[Any] | None:
    """The blocks of stages of blocks in their order; ``None`` if there is anything else.

    Args:
        stages: An ``nn.Sequential`` of such.
        kind: The class of a block.
    """
    if type(stages) is not nn.Sequential:
        return None
    blocks: list[Any] = []
    for stage in stages:
        if type(stage) is not nn.Sequential:
            return None
        blocks += stage  # a shared one as often as it runs
    return blocks if all(type(block) is kind for block in blocks) else None
