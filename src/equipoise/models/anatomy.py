"""What a backbone says of itself, so that its frozen norms can be folded."""

from dataclasses import dataclass

from torch import nn

ConvAndNorm = tuple[nn.Module, nn.Module | None]
"""A convolution, and the norm that reads it and nothing else."""


@dataclass(frozen=True, kw_only=True)
class BlockAnatomy:
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
class Anatomy:
    """A network between its normalised images and its pooled features, in the order of the pass.

    Args:
        stem: The first convolution and the norm after it; with a norm, a ReLU follows.
        blocks: What comes next.
        norm: The last norm, before a ReLU and the pooling, if there is one.
        activations: The modules that stand for ReLUs outside the blocks.
    """

    stem: ConvAndNorm
    blocks: tuple[BlockAnatomy, ...]
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
