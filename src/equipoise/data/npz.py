"""Arrays of an ``.npz``, read without unpickling; a data set in such a file."""

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from jaxtyping import Int
from numpy.lib import format as npy
from torch import Tensor

from equipoise.data.dataset import DataError, DataSet, Split

LARGEST_PACKED = 2**33
"""Largest compressed array that is read, 8 GiB; uncompressed ones are mapped, of any size."""


@dataclass(frozen=True, kw_only=True)
class NpzFile:
    """A data set in one ``.npz``, as MedMNIST and many others come.

    Args:
        path: Holds ``train_images``, ``train_labels``, ``test_images`` and ``test_labels``: uint8
            images as rows of height, width and channel, or of height and width; labels from 0. It
            may hold ``class_names``, an array of texts.
        name: Goes into records; the file's name by default.
    """

    path: Path | None = None
    name: str | None = None

    def load(self) -> DataSet:
        """Read the file.

        Returns:
            The data set.

        Raises:
            DataError: If the file or an array is missing, or an array has another type or shape.
        """
        if self.path is None or not self.path.is_file():
            raise DataError(f"there is no file {self.path}; give an .npz by --data FILE.")
        parts = ("train", "test")
        wanted = [f"{part}_{what}" for part in parts for what in ("images", "labels")]
        arrays = read_arrays(self.path, wanted, optional=["class_names"])
        pixels, labels = [], []
        for part in parts:
            pixels.append(_pixels(self.path, f"{part}_images", arrays))
            marks = arrays[f"{part}_labels"]
            if marks.shape[1:] == (1,):  # a column, as MedMNIST has it
                arrays[f"{part}_labels"] = marks[:, 0]
            labels.append(whole_labels(self.path, f"{part}_labels", arrays, len(pixels[-1])))
        if pixels[0].shape[1:] != pixels[1].shape[1:]:
            raise DataError(
                f"{self.path}: test_images must be like train_images, got (channels, height, "
                f"width) {tuple(pixels[1].shape[1:])} and {tuple(pixels[0].shape[1:])}."
            )
        names = _names(self.path, arrays.get("class_names", range(int(labels[0].max()) + 1)))
        train, test = (
            Split(images=images, labels=found, classes=len(names))
            for images, found in zip(pixels, labels, strict=True)
        )
        return DataSet(name=self.name or self.path.stem, train=train, test=test, class_names=names)


def read_arrays(path: Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """Arrays of an ``.npz``; those that are stored uncompressed are mapped into memory, not read.

    Args:
        path: The file.
        names: Arrays that must be there.
        optional: Arrays that may be.

    Returns:
        The arrays by name.

    Raises:
        DataError: If it is no ``.npz`` of plain arrays, lacks one, or an array is too large.
    """
    try:
        with path.open("rb") as raw, numpy.load(raw, allow_pickle=False) as file:
            missing = [name for name in names if name not in file.files]
            if missing:
                raise DataError(
                    f"{path} lacks the array {' and '.join(missing)}; it has {file.files}."
                )
            found = {}
            for name in [*names, *(name for name in optional if name in file.files)]:
                mapped = _mapped(path, f"{name}.npy")
                found[name] = file[name] if mapped is None else mapped
            return found
    except DataError:
        raise
    except Exception as error:  # no zip, cut short, a pickle, an array of objects
        raise DataError(
            f"{path} cannot be read as an .npz of plain arrays ({error}); pickled content is "
            "refused, because loading it can run anything."
        ) from error


def whole_labels(path: Path, name: str, arrays: dict[str, Any], count: int) -> Int[Tensor, " n"]:
    """One of the arrays as labels.

    Args:
        path: The file.
        name: Of the array.
        arrays: As ``read_arrays`` gave them.
        count: Of the images.

    Returns:
        The labels.

    Raises:
        DataError: If they are no whole numbers, one an image and one at least.
    """
    labels = arrays[name]
    if labels.dtype.kind not in "iu" or labels.shape != (count,) or not count:
        raise DataError(
            f"{path}: {name} must be whole numbers, one for each of the {count} images and one at "
            f"least, got {labels.dtype} of shape {labels.shape}."
        )
    return torch.from_numpy(labels.astype(numpy.int64))


def _names(path: Path, names: Any) -> tuple[str, ...]:
    if numpy.ndim(names) != 1:
        raise DataError(
            f"{path}: class_names must be a row of texts, one a class, got an array of shape "
            f"{numpy.shape(names)}."
        )
    return tuple(
        name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names
    )


def _pixels(path: Path, name: str, arrays: dict[str, Any]) -> Tensor:
    images = arrays[name]
    rows = images[..., None] if images.ndim == 3 else images
    if images.dtype != numpy.uint8 or rows.ndim != 4 or rows.shape[3] > 4:
        raise DataError(
            f"{path}: {name} must be uint8 of shape (n, height, width, channels) or (n, height, "
            f"width), got {images.dtype} of shape {images.shape}."
        )
    return torch.from_numpy(numpy.ascontiguousarray(rows.transpose(0, 3, 1, 2)).copy())


def _mapped(path: Path, member: str) -> Any:
    """An array of an ``.npz`` as a memory map, or ``None`` where it has to be read."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(member)
        if entry.compress_type != zipfile.ZIP_STORED:
            if entry.file_size > LARGEST_PACKED:
                raise DataError(
                    f"{path}: {member} unpacks to {entry.file_size:,} bytes, more than the "
                    f"{LARGEST_PACKED:,} allowed; write it uncompressed, by numpy.savez."
                )
            return None
        with archive.open(member) as file:
            if npy.read_magic(file) != (1, 0):
                return None  # the header of a plain array of bytes never needs another version
            shape, fortran, kind = npy.read_array_header_1_0(file)
            skipped = file.tell()
    if kind.hasobject or math.prod(shape) == 0:
        return None  # numpy.load says what is wrong with it
    with path.open("rb") as raw:  # the name and the extra field of the member come before it
        raw.seek(entry.header_offset + 26)
        lengths = raw.read(4)
    name, field = (int.from_bytes(lengths[at : at + 2], "little") for at in (0, 2))
    offset = entry.header_offset + 30 + name + field + skipped
    order = "F" if fortran else "C"
    mapped: Any = numpy.memmap  # its annotations leave positions and kinds of dtype out
    return mapped(path, kind, "r", offset=offset, shape=shape, order=order)
