"""Images that stay in a file, from which only the rows of a batch are read."""

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
    """Rows of an ``.npy`` file of uint8 images, used like a tensor in ``Split.images``.

    It has the ``shape``, ``dtype`` and ``len`` of a tensor; indexing reads the rows into a CPU
    tensor. Other processes receive it as a path, not as pixels.

    Args:
        path: The file, of shape ``(rows, channel, height, width)``.
        rows: Indices of the rows of the file, in order.

    Raises:
        RunError: When rows are read and the file has been deleted. A process that has read from it
            before keeps it open and can continue.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "images.npy"
        >>> numpy.save(path, numpy.zeros((5, 3, 8, 8), numpy.uint8))
        >>> images = MappedImages(path=path, rows=torch.arange(5))
        >>> images.shape, images[torch.tensor([4, 0])].shape
        ((5, 3, 8, 8), torch.Size([2, 3, 8, 8]))
    """

    path: Path
    rows: Int[Tensor, " n"]

    def _pixels(self) -> Any:
        try:
            return open_map(self.path)
        except FileNotFoundError as error:
            raise RunError(
                f"the decoded images {self.path} were deleted from the cache. Finished work is "
                "kept: run the same command again, which decodes the images again."
            ) from error

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, channel, height, width)``."""
        return (len(self.rows), *self._pixels().shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """Always ``torch.uint8``."""
        return torch.uint8

    @property
    def ndim(self) -> int:
        """Always 4."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the images in bytes."""
        return int(numpy.prod(self.shape))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | Tensor) -> UInt8[Tensor, "rows channel height width"]:
        indices = self.take(rows).rows.numpy()
        # Indexing with an array copies, so that no tensor shares memory with the file.
        return torch.from_numpy(self._pixels()[indices])

    def take(self, rows: slice | Tensor) -> "MappedImages":
        """Select rows without reading them."""
        indices = rows.cpu() if isinstance(rows, Tensor) else rows
        return MappedImages(path=self.path, rows=self.rows[indices])


@functools.lru_cache(maxsize=16)
def open_map(path: Path) -> Any:
    """Open an ``.npy`` file as a read-only memory map; the file must never change.

    Raises:
        ValueError: If it is not a plain array, or is truncated.
        EOFError: If it is empty.
    """
    return numpy.load(path, mmap_mode="r", allow_pickle=False)
