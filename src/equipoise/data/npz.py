"""A data set in an ``.npz`` file, which is read without unpickling."""

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

MAX_COMPRESSED_BYTES = 2**33
"""Size limit of a compressed array, 8 GiB; uncompressed ones of any size are memory-mapped."""


@dataclass(frozen=True, kw_only=True)
class NpzFile:
    """A data set in one ``.npz`` file, like those of MedMNIST.

    Args:
        path: The file, with the arrays ``train_images``, ``train_labels``, ``test_images`` and
            ``test_labels``: uint8 images of shape ``(n, height, width, channel)`` or
            ``(n, height, width)``, and labels that count from 0. The array ``class_names``, of
            strings, is optional.
        name: Name in records; the file's name by default.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mine.npz"
        >>> images, labels = numpy.zeros((4, 8, 8), numpy.uint8), numpy.array([0, 1, 1, 0])
        >>> arrays = {"train_images": images, "train_labels": labels}
        >>> arrays |= {"test_images": images, "test_labels": labels}
        >>> numpy.savez(path, **arrays)
        >>> NpzFile(path=path).load().summary()
        'mine: 4 training and 4 test images, 8x8, grey; 2 classes of 2 training images.'
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
            raise DataError(
                f"the data must be an existing .npz file, got {self.path}; give --data FILE."
            )
        splits = ("train", "test")
        required = [f"{split}_{array}" for split in splits for array in ("images", "labels")]
        arrays = read_arrays(self.path, required, optional=["class_names"])
        pixels, labels = [], []
        for split in splits:
            pixels.append(_image_tensor(self.path, f"{split}_images", arrays))
            column = arrays[f"{split}_labels"]
            if column.shape[1:] == (1,):  # as in MedMNIST
                arrays[f"{split}_labels"] = column[:, 0]
            labels.append(label_tensor(self.path, f"{split}_labels", arrays, len(pixels[-1])))
        if pixels[0].shape[1:] != pixels[1].shape[1:]:
            raise DataError(
                f"{self.path}: test_images must have the shape of train_images, got (channels, "
                f"height, width) {tuple(pixels[1].shape[1:])} and {tuple(pixels[0].shape[1:])}."
            )
        names = _class_names(self.path, arrays.get("class_names", range(int(labels[0].max()) + 1)))
        train, test = (
            Split(images=images, labels=classes, classes=len(names))
            for images, classes in zip(pixels, labels, strict=True)
        )
        return DataSet(name=self.name or self.path.stem, train=train, test=test, class_names=names)


def read_arrays(path: Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """Read arrays of an ``.npz`` file; uncompressed ones are memory-mapped.

    Args:
        path: The file.
        names: Required arrays.
        optional: Arrays that are read if they exist.

    Returns:
        The arrays by name.

    Raises:
        DataError: If the file is not an ``.npz`` of plain arrays, lacks one, or an array is too
            large.
    """
    try:
        with path.open("rb") as raw, numpy.load(raw, allow_pickle=False) as file:
            missing = [name for name in names if name not in file.files]
            if missing:
                raise DataError(
                    f"{path} lacks the array {' and '.join(missing)}; it has {file.files}."
                )
            arrays = {}
            for name in [*names, *(name for name in optional if name in file.files)]:
                mapped = _memory_map(path, f"{name}.npy")
                arrays[name] = file[name] if mapped is None else mapped
            return arrays
    except DataError:
        raise
    except Exception as error:  # not a zip, truncated, a pickle, an array of objects
        raise DataError(
            f"{path} cannot be read as an .npz of plain arrays ({error}); pickled content is "
            "rejected, because loading it can run code. Write plain arrays with numpy.savez."
        ) from error


def label_tensor(path: Path, name: str, arrays: dict[str, Any], count: int) -> Int[Tensor, " n"]:
    """Convert one of the arrays to labels.

    Args:
        path: The file, for messages.
        name: Name of the array.
        arrays: Result of ``read_arrays``.
        count: Number of images.

    Returns:
        The labels as int64.

    Raises:
        DataError: If they are not integers, one per image, or there are none.
    """
    labels = arrays[name]
    if labels.dtype.kind not in "iu" or labels.shape != (count,) or not count:
        raise DataError(
            f"{path}: {name} must be whole numbers, one for each of the {count} images and "
            f"at least one, got {labels.dtype} of shape {labels.shape}."
        )
    return torch.from_numpy(labels.astype(numpy.int64))


def _class_names(path: Path, names: Any) -> tuple[str, ...]:
    if numpy.ndim(names) != 1:
        raise DataError(
            f"{path}: class_names must be a vector of strings, one per class, got an array of "
            f"shape {numpy.shape(names)}."
        )
    return tuple(
        name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names
    )


def _image_tensor(path: Path, name: str, arrays: dict[str, Any]) -> Tensor:
    images = arrays[name]
    rows = images[..., None] if images.ndim == 3 else images
    if images.dtype != numpy.uint8 or rows.ndim != 4 or rows.shape[3] > 4:
        raise DataError(
            f"{path}: {name} must be uint8 of shape (n, height, width, channels) or (n, height, "
            f"width), got {images.dtype} of shape {images.shape}."
        )
    return torch.from_numpy(numpy.ascontiguousarray(rows.transpose(0, 3, 1, 2)).copy())


def _memory_map(path: Path, member: str) -> Any:
    """Map an array of an ``.npz`` file into memory, or return ``None`` if it must be read."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(member)
        if entry.compress_type != zipfile.ZIP_STORED:
            if entry.file_size > MAX_COMPRESSED_BYTES:
                raise DataError(
                    f"{path}: {member} must unpack to at most {MAX_COMPRESSED_BYTES:,} bytes, got "
                    f"{entry.file_size:,}; write it uncompressed, with numpy.savez."
                )
            return None
        with archive.open(member) as file:
            if npy.read_magic(file) != (1, 0):
                return None  # plain arrays of numbers never need another version
            shape, fortran, dtype = npy.read_array_header_1_0(file)
            header_size = file.tell()
    if dtype.hasobject or math.prod(shape) == 0:
        return None  # numpy.load reports what is wrong with it
    with path.open("rb") as raw:  # the member's name and extra field precede its content
        raw.seek(entry.header_offset + 26)
        lengths = raw.read(4)
    name, extra = (int.from_bytes(lengths[start : start + 2], "little") for start in (0, 2))
    offset = entry.header_offset + 30 + name + extra + header_size
    order = "F" if fortran else "C"
    memmap: Any = numpy.memmap  # its annotations are incomplete
    return memmap(path, dtype, "r", offset=offset, shape=shape, order=order)
