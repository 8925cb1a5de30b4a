"""Random draws for a batch that several processes share: bit-identical to those of one process.

Every process holds a ``SharedGenerator`` in the same state. The functions here draw for the *whole*
batch and return the rows of this process's images, so that a step does not depend on the number of
processes. With a plain ``torch.Generator`` the process holds the whole batch.
"""

import contextlib
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


class SharedGenerator(torch.Generator):
    """The generator of one of several processes; its state is the same in all of them.

    Attributes:
        rank: Index of this process.
        world: Number of processes.
        global_rows: Number of rows in the whole batch.
        positions: ``(rows,)``, positions of this process's rows in the whole batch.
    """

    rank: int
    world: int
    global_rows: int
    positions: Int[Tensor, " rows"]

    @classmethod
    def of(cls, device: torch.device, rank: int, world: int) -> "SharedGenerator":
        """Create the generator of process ``rank`` out of ``world``."""
        generator = cls(device)
        generator.rank, generator.world = rank, world
        return generator


def rand(rows: int, generator: torch.Generator) -> Float[Tensor, " rows"]:
    """Draw one number in [0, 1) for each of this process's rows, on the generator's device.

    Example:
        >>> single = torch.Generator().manual_seed(0)
        >>> shared = SharedGenerator.of(torch.device("cpu"), rank=1, world=2)
        >>> _ = shared.manual_seed(0)
        >>> rows = shard(torch.arange(4), shared)  # rows 1 and 3
        >>> torch.equal(rand(2, shared), rand(4, single)[rows])
        True
    """
    count = global_size(rows, generator)
    return local_rows(torch.rand(count, generator=generator, device=generator.device), generator)


def randint(high: int, rows: int, generator: torch.Generator) -> Int[Tensor, " rows"]:
    """Draw one integer in [0, high) for each of this process's rows.

    Args:
        high: Upper bound, exclusive.
        rows: Number of rows of this process.
        generator: Generator of this process.

    Returns:
        Integers on the generator's device.
    """
    size = (global_size(rows, generator),)
    draw = torch.randint(high, size, generator=generator, device=generator.device)
    return local_rows(draw, generator)


def uniform_like(
    images: Shaped[Tensor, "rows ..."], low: float, high: float, generator: torch.Generator
) -> Shaped[Tensor, "rows ..."]:
    """Draw uniform noise with the shape and memory layout of ``images``.

    Args:
        images: Images of this process.
        low: Lower bound.
        high: Upper bound.
        generator: Generator of this process.

    Returns:
        Noise in [low, high).
    """
    noise = _empty_like(images, generator).uniform_(low, high, generator=generator)
    return local_rows(noise, generator)


def randn_like(
    images: Shaped[Tensor, "rows ..."], generator: torch.Generator
) -> Shaped[Tensor, "rows ..."]:
    """Draw standard normal noise with the shape and memory layout of ``images``."""
    return local_rows(_empty_like(images, generator).normal_(generator=generator), generator)


def shard(rows: Int[Tensor, " global"], generator: torch.Generator) -> Int[Tensor, " rows"]:
    """Select this process's rows of a batch; later draws are for these rows.

    Process ``rank`` takes every ``world``-th row, so that each group of a batch is shared evenly.
    """
    if not isinstance(generator, SharedGenerator):
        return rows
    generator.global_rows = len(rows)
    generator.positions = torch.arange(
        generator.rank, len(rows), generator.world, device=generator.device
    )
    return rows[generator.positions.to(rows.device)]


def processes(generator: torch.Generator) -> int:
    """Return the number of processes that share a batch."""
    return generator.world if isinstance(generator, SharedGenerator) else 1


def global_size(rows: int, generator: torch.Generator) -> int:
    """Return the number of rows in all processes when this process has ``rows``.

    ``rows`` may be a multiple of this process's images: AFA repeats them once per branch.
    """
    if not isinstance(generator, SharedGenerator):
        return rows
    return max(1, rows // max(1, len(generator.positions))) * generator.global_rows


def local_rows(
    values: Shaped[Tensor, "global ..."], generator: torch.Generator
) -> Shaped[Tensor, "rows ..."]:
    """Select this process's rows of values that were drawn for the whole batch."""
    if not isinstance(generator, SharedGenerator):
        return values
    groups = values.unflatten(0, (-1, generator.global_rows))
    return groups[:, generator.positions.to(values.device)].flatten(0, 1)


def local_mean(values: Float[Tensor, " rows"], generator: torch.Generator) -> Float[Tensor, ""]:
    """Return this process's part of the mean over the rows of all processes.

    The parts average to that mean. A process without rows contributes 0.

    Example:
        >>> local_mean(torch.tensor([1.0, 3.0]), torch.Generator())
        tensor(2.)
    """
    if not isinstance(generator, SharedGenerator):
        return values.mean()
    share = len(values) * generator.world / generator.global_rows
    return values.mean() * share if len(values) else values.sum()


@contextlib.contextmanager
def subset(chosen: Bool[Tensor, " global"], generator: torch.Generator) -> Iterator[int]:
    """Restrict draws and means to some rows of the whole batch.

    Args:
        chosen: Mask over the whole batch, the same in all processes.
        generator: Generator of this process.

    Returns:
        A context manager that yields how many of the chosen rows this process has.
    """
    if not isinstance(generator, SharedGenerator):
        yield int(chosen.sum())
        return
    before = generator.global_rows, generator.positions
    chosen = chosen.to(generator.positions.device)
    generator.global_rows = int(chosen.sum())
    generator.positions = (chosen.cumsum(0) - 1)[before[1]][chosen[before[1]]]
    try:
        yield len(generator.positions)
    finally:
        generator.global_rows, generator.positions = before


def _empty_like(
    images: Shaped[Tensor, "rows ..."], generator: torch.Generator
) -> Shaped[Tensor, "global ..."]:
    """Allocate one row for each image of all processes, in the memory layout of ``images``."""
    if not isinstance(generator, SharedGenerator):
        return torch.empty_like(images)
    like = torch.empty_like(images[:1] if len(images) else images.new_empty(1, *images.shape[1:]))
    rows = global_size(len(images), generator)
    strides = (like[0].numel(), *like.stride()[1:])
    return torch.empty_strided(
        (rows, *like.shape[1:]), strides, dtype=images.dtype, device=images.device
    )
