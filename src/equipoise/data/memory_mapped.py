"""Images that stay in a file: only the rows of a batch are read."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from equipoise.runtime.errors import RunError


@dataclass(frozen=True, kw_only=True, eq=False)
class MappedImages:
    """Rows of a ``.npy`` of uint8 images, in place of a tensor in ``Split.images``.

    It has a tensor's ``shape``, ``dtype`` and ``len``; indexing reads the rows into a tensor on the
    processor. It is copied to other processes as a path, not as pixels.

    Args:
        path: The file, ``(rows, channel, height, width)``.
        rows: Which rows of the file, in order.

    Raises:
        RunError: When rows are read and the file is gone. A process that has read from it before
            keeps it open, and can go on.
    """

    path: Path
    rows: Int[Tensor, " n"]

    def _pixels(self) -> Any:
        try:
            return open_map(self.path)
        except FileNotFoundError as error:
            raise RunError(
                f"the decoded images {self.path} are gone; something cleared the cache. What was "
                "done is kept: run the same command again, which decodes them anew."
            ) from error

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, channel, height, width)``."""
        return (len(self.rows), *self._pixels().shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """uint8."""
        return torch.uint8

    @property
    def ndim(self) -> int:
        """4."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """What the images take."""
        return int(numpy.prod(self.shape))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | Tensor) -> UInt8[Tensor, "rows channel height width"]:
        chosen = self.take(rows).rows.numpy()
        # Indexing with an array copies, so no tensor ever shares memory with the file.
        return torch.from_numpy(self._pixels()[chosen])

    def take(self, rows: slice | Tensor) -> "MappedImages":
        """The chosen rows, still in the file."""
        chosen = rows.cpu() if isinstance(rows, Tensor) else rows
        return MappedImages(path=self.path, rows=self.rows[chosen])


@functools.lru_cache(maxsize=16)
def open_map(path: Path) -> Any:
    """A ``.npy`` as a read-only map; a file of one name must never change.

    Raises:
        ValueError: If it is no plain array or cut short.
        EOFError: If it is empty.
    """
    return numpy.load(path, mmap_mode="r", allow_pickle=False)
