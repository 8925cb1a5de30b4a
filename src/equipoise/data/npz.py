"""A data set in an ``.npz`` file, which is read without unpickling."""

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.lib import format as npy
from torch import Tensor

from equipoise.data.dataset import DataError, DataSet, Split
from equipoise.data.pixels import number_classes, to_labels, to_uint8

MAX_COMPRESSED_BYTES = 2**33
"""Size limit of a compressed array, 8 GiB; uncompressed ones of any size are memory-mapped."""


@dataclass(frozen=True, kw_only=True)
class NpzFile:
    """A data set in one ``.npz`` file, like those of MedMNIST.

    Args:
        path: The file, with the arrays ``train_images``, ``train_labels``, ``test_images`` and
            ``test_labels``, or only the last two, which suffice for an evaluation. Images are uint8
            of shape ``(n, height, width, channel)``, ``(n, channel, height, width)`` or
            ``(n, height, width)``, or floats, if the array ``value_range`` holds the values of
            black and white. The array ``class_names``, of strings, is optional; without it, the
            labels of the training images are numbered from 0 without gaps.
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
            DataError: If the file or an array is missing, an array has another type or shape, or a
                test image has a label that no training image has.
        """
        if self.path is None or not self.path.is_file():
            raise DataError(
                f"the data must be an existing .npz file, got {self.path}; give --data FILE."
            )
        arrays = read_arrays(
            self.path,
            ("test_images", "test_labels"),
            optional=("train_images", "train_labels", "value_range", "class_names"),
        )
        images, labels = _images_and_labels(self.path, "test", arrays)
        name = self.name or self.path.stem
        if not {"train_images", "train_labels"} & {*arrays}:
            names = _class_names(self.path, arrays, int(labels.max()) + 1)
            test = Split(images=images, labels=labels, classes=len(names))
            return DataSet(name=name, train=test.none(), test=test, class_names=names)
        pixels, indices = _images_and_labels(self.path, "train", arrays)
        if images.shape[1:] != pixels.shape[1:]:
            raise DataError(
                f"{self.path}: test_images must have the shape of train_images, got (channels, "
                f"height, width) {tuple(images.shape[1:])} and {tuple(pixels.shape[1:])}."
            )
        notes: tuple[str, ...] = ()
        if "class_names" in arrays:
            names = _class_names(self.path, arrays)
        else:
            indices, labels, names, notes = number_classes(indices, labels, str(self.path))
        train, test = (
            Split(images=part, labels=classes, classes=len(names))
            for part, classes in ((pixels, indices), (images, labels))
        )
        return DataSet(name=name, train=train, test=test, class_names=names, notes=notes)


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


def _class_names(path: Path, arrays: dict[str, Any], count: int = 0) -> tuple[str, ...]:
    names = arrays.get("class_names", range(count))
    if numpy.ndim(names) != 1:
        raise DataError(
            f"{path}: class_names must be a vector of strings, one per class, got an array of "
            f"shape {numpy.shape(names)}."
        )
    return tuple(
        name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names
    )


def _images_and_labels(path: Path, part: str, arrays: dict[str, Any]) -> tuple[Tensor, Tensor]:
    missing = [name for name in (f"{part}_images", f"{part}_labels") if name not in arrays]
    if missing:
        raise DataError(f"{path} lacks the array {missing[0]}; it has {sorted(arrays)}.")
    stated = arrays.get("value_range")
    if stated is not None and (stated.shape != (2,) or stated.dtype.kind not in "iuf"):
        raise DataError(
            f"{path}: value_range must be two numbers, the values of black and white, got "
            f"{stated.dtype} of shape {stated.shape}."
        )
    images = to_uint8(
        arrays[f"{part}_images"],
        None if stated is None else (float(stated[0]), float(stated[1])),
        name=f"{path}: {part}_images",
        remedy=(
            f"state it in the file: numpy.savez({path.name!r}, **numpy.load({path.name!r}), "
            "value_range={})"
        ),
    )
    return images, to_labels(arrays[f"{part}_labels"], len(images), name=f"{path}: {part}_labels")


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
