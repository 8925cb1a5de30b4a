"""Random numbers for a batch that several processes share: the numbers one process would draw.

Every process holds a generator in the same state, draws for the *whole* batch and takes the rows of
its own images. So a step does not depend on how many processes share it. With a plain
``torch.Generator`` the whole batch is here, and nothing below changes anything.
"""

import contextlib
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


class SharedGenerator(torch.Generator):
    """The generator of one of several processes, in the same state on each of them.

    Attributes:
        rank: Number of this process.
        world: How many there are.
        total: Rows of the whole batch.
        places: ``(rows,)``: which of them are here.
    """

    rank: int
    world: int
    total: int
    places: Tensor

    @classmethod
    def of(cls, device: torch.device, rank: int, world: int) -> "SharedGenerator":
        """A generator on a device, for one process of so many."""
        made = cls(device)
        made.rank, made.world = rank, world
        return made


def share(rows: Int[Tensor, " whole"], generator: torch.Generator) -> Int[Tensor, " rows"]:
    """Those of a batch's rows that are this process's; what is drawn next is drawn for them.

    Every ``world``-th row is: groups of a batch fall to all processes alike.
    """
    if not isinstance(generator, SharedGenerator):
        return rows
    generator.total = len(rows)
    generator.places = torch.arange(
        generator.rank, len(rows), generator.world, device=generator.device
    )
    return rows[generator.places.to(rows.device)]


def processes(generator: torch.Generator) -> int:
    """How many processes share a batch."""
    return generator.world if isinstance(generator, SharedGenerator) else 1


def whole(rows: int, generator: torch.Generator) -> int:
    """How many rows all processes have where this one has ``rows``.

    They may be several copies of this process's images one after the other, as AFA makes them.
    """
    if not isinstance(generator, SharedGenerator):
        return rows
    return max(1, rows // max(1, len(generator.places))) * generator.total


def own(
    values: Shaped[Tensor, "whole ..."], generator: torch.Generator
) -> Shaped[Tensor, "rows ..."]:
    """This process's rows of what was drawn for all of them."""
    if not isinstance(generator, SharedGenerator):
        return values
    groups = values.unflatten(0, (-1, generator.total))
    return groups[:, generator.places.to(values.device)].flatten(0, 1)


def empty(
    images: Shaped[Tensor, "rows ..."], generator: torch.Generator
) -> Shaped[Tensor, "whole ..."]:
    """Room for one row of numbers for each image of all processes, in these images' layout.

    Fill it and take ``own``.
    """
    if not isinstance(generator, SharedGenerator):
        return torch.empty_like(images)
    like = torch.empty_like(images[:1] if len(images) else images.new_empty(1, *images.shape[1:]))
    rows = whole(len(images), generator)
    strides = (like[0].numel(), *like.stride()[1:])
    return torch.empty_strided(
        (rows, *like.shape[1:]), strides, dtype=images.dtype, device=images.device
    )


@contextlib.contextmanager
def among(chosen: Bool[Tensor, " whole"], generator: torch.Generator) -> Iterator[None]:
    """Inside, draws are for some rows of the batch alone.

    Args:
        chosen: Which of the whole batch's rows.
        generator: Whose draws.

    Returns:
        A context manager.
    """
    if not isinstance(generator, SharedGenerator):
        yield
        return
    before = generator.total, generator.places
    chosen = chosen.to(generator.places.device)
    generator.total = int(chosen.sum())
    generator.places = (chosen.cumsum(0) - 1)[before[1]][chosen[before[1]]]
    try:
        yield
    finally:
        generator.total, generator.places = before
