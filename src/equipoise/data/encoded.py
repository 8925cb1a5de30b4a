"""Encoded images of a ``datasets.Dataset``, read row by row."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from equipoise.data.dataset import DataError

_BLOCK_SIZE = 256
"""Rows that are read at once when all are read in order."""


class EncodedImages:
    """A column of images, still encoded. Rows are read when they are used.

    Args:
        dataset: A ``datasets.Dataset``.
        column: Its column of images.
        origin: The folder, or the repository on the hub.
        part: Name of the split there.

    Raises:
        DataError: If the column does not hold images; when a row is read, if it has no image, or
            the file that it names cannot be read.
    """

    def __init__(self, dataset: Any, column: str, origin: str, part: str) -> None:
        import datasets

        self.column, self.origin, self.part = column, origin, part
        try:
            selected = dataset.select_columns([column])
            encoded = selected.cast_column(column, datasets.Image(decode=False))
            self.rows = encoded.with_format("arrow")
        except Exception as error:  # whatever datasets raises for a column of another type
            raise DataError(
                f"{origin}: {part} holds no images in the column {column} ({error})."
            ) from error

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> "EncodedImages": ...

    def __getitem__(self, index: int | slice) -> "bytes | EncodedImages":
        if isinstance(index, slice):
            chosen = self.rows.select(range(*index.indices(len(self))))
            return EncodedImages(chosen, self.column, self.origin, self.part)
        return self._content(self.rows[index][self.column][0].as_py(), index)

    def __iter__(self) -> Iterator[bytes]:
        return (self._content(cell, number) for number, cell in enumerate(self._cells()))

    def where(self, number: int) -> str:
        """Name of an image in messages."""
        return f"{self.origin}: image {number} of {self.part}"

    def fingerprint(self) -> str:
        """Hash of all encoded images; for one in a file of its own, of the file's size and time."""
        digest = hashlib.sha256()
        for number, cell in enumerate(self._cells()):
            path = _file_of(cell)
            content = self._content(cell, number) if path is None else _stamp(path)
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()

    def _cells(self) -> Iterator[Any]:
        for batch in self.rows.iter(_BLOCK_SIZE):
            yield from batch[self.column].to_pylist()

    def _content(self, cell: Any, number: int) -> bytes:
        path = _file_of(cell)
        if path is not None:
            try:
                return path.read_bytes()
            except OSError as error:
                raise DataError(f"{path} cannot be read ({error}); copy it again.") from error
        if not isinstance(cell, dict) or not isinstance(cell.get("bytes"), bytes):
            raise DataError(f"{self.where(number)} is broken: it holds no encoded image.")
        return cell["bytes"]


def _file_of(cell: Any) -> Path | None:
    """The file of an image that is not stored in the table itself."""
    if not isinstance(cell, dict) or cell.get("bytes") is not None or not cell.get("path"):
        return None
    path = Path(cell["path"])
    return path if path.is_file() else None


def _stamp(path: Path) -> bytes:
    status = path.stat()
    return f"{path}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}".encode()


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Encoded images and labels of one split.

    Args:
        images: Encoded images.
        labels: Class index of each image.
        names: Class names; empty if there are none.
    """

    images: EncodedImages
    labels: list[int]
    names: tuple[str, ...]
