"""CIFAR-10 and CIFAR-100, from whichever of their layouts lies in a folder, or from the hub."""

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy
import torch

from equipoise.data import parquet
from equipoise.data.archives import Files, open_files
from equipoise.data.dataset import DataError, DataSet, Split
from equipoise.data.parquet import Encoded, Table
from equipoise.data.pickles import read_pickle

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What differs between the two."""

    name: str
    table: Table
    classes: int
    archive: str  # how names of archives and folders begin
    train: tuple[str, ...]  # batches, as files are called
    test: str
    meta: str
    labels: str  # key of a pickle's labels
    label_names: str  # key of the class names in the pickle ``meta``
    label_bytes: int  # of a record of the binary version; the last one is the class
    names_file: str  # of the binary version


_TEN = _Kind(
    name="cifar10",
    table=Table(title="CIFAR-10", config="plain_text", image="img"),
    classes=10,
    archive="cifar-10",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    labels="labels",
    label_names="label_names",
    label_bytes=1,
    names_file="batches.meta.txt",
)
_HUNDRED = _Kind(
    name="cifar100",
    table=Table(title="CIFAR-100", config="cifar100", image="img", label="fine_label"),
    classes=100,
    archive="cifar-100",
    train=("train",),
    test="test",
    meta="meta",
    labels="fine_labels",
    label_names="fine_label_names",
    label_bytes=2,
    names_file="fine_label_names.txt",
)


@dataclass(frozen=True, kw_only=True)
class Cifar10:
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 in ten classes.

    Args:
        folder: A folder that holds one of its layouts, or one of its archives: the hub's parquet,
            the Python version (read without unpickling anything), the binary version.
        limit: Use only the first so many training images; ``None`` for all.
        hub: Repository on the hub that is used if there is no folder.

    Raises:
        ValueError: If the limit is below 1.

    Source:
        Krizhevsky 2009; https://www.cs.toronto.edu/~kriz/cifar.html.
    """

    folder: Path | None = None
    limit: int | None = None
    hub: str = "uoft-cs/cifar10"

    def __post_init__(self) -> None:
        _refuse_limit(self.limit)

    def load(self) -> DataSet:
        """Read all images.

        Returns:
            The data set ``cifar10``, or ``cifar10-jpeg`` where the stored images are JPEG.

        Raises:
            DataError: If the folder, a file, a column or an image cannot be read, or the hub is out
                of reach.
        """
        return _load(_TEN, self.folder, self.limit, self.hub)


@dataclass(frozen=True, kw_only=True)
class Cifar100:
    """CIFAR-100 with its fine labels: 50,000 training and 10,000 test images in 100 classes.

    Args:
        folder: As of ``Cifar10``.
        limit: Use only the first so many training images; ``None`` for all.
        hub: Repository on the hub that is used if there is no folder.

    Raises:
        ValueError: If the limit is below 1.

    Source:
        Krizhevsky 2009; https://www.cs.toronto.edu/~kriz/cifar.html.
    """

    folder: Path | None = None
    limit: int | None = None
    hub: str = "uoft-cs/cifar100"

    def __post_init__(self) -> None:
        _refuse_limit(self.limit)

    def load(self) -> DataSet:
        """Read all images.

        Returns:
            The data set ``cifar100``, or ``cifar100-jpeg`` where the stored images are JPEG.

        Raises:
            DataError: As ``Cifar10.load``.
        """
        return _load(_HUNDRED, self.folder, self.limit, self.hub)


def _refuse_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be 1 or more, or None for all images, got {limit}.")


def _load(kind: _Kind, folder: Path | None, limit: int | None, hub: str) -> DataSet:
    if folder is None:
        return _of_table(kind, *parquet.from_hub(hub, kind.table), limit)
    if parquet.parquet_files(folder, kind.table, "train"):
        return _of_table(kind, *parquet.from_parquet(folder, kind.table), limit)
    places = [folder / f"{kind.archive}-{end}" for end in ("batches-py", "batches-bin")]
    places += [folder / f"{kind.archive}-{end}" for end in ("python", "binary")]
    places += [folder / f"{kind.archive}-{end}.tar.gz" for end in ("python", "binary")]
    for place in [folder, *places]:
        if not place.exists():
            continue
        with open_files(place, deep=False) as files:
            names = {PurePosixPath(name).name for name in files.names}
            if kind.train[0] in names and kind.meta in names:
                return _of_files(kind, files, _from_pickle, limit)
            if f"{kind.train[0]}.bin" in names:
                return _of_files(kind, files, _from_binary, limit)
    raise DataError(
        f"{folder} holds no data/train-*.parquet, and no {kind.table.title} in another layout: "
        f"{kind.archive}-python.tar.gz, {kind.archive}-binary.tar.gz, or what they unpack to."
    )


def _of_table(kind: _Kind, train: Encoded, test: Encoded, limit: int | None) -> DataSet:
    if train.names != test.names:
        raise DataError(f"{train.origin}: train and test name their classes unalike.")
    names = train.names or tuple(map(str, range(kind.classes)))
    few = replace(train, images=train.images[:limit], labels=train.labels[:limit])
    (first, coding), (second, _) = (parquet.decoded(part, len(names)) for part in (few, test))
    name = f"{kind.name}-jpeg" if coding == "JPEG" else kind.name
    return DataSet(name=name, train=first, test=second, class_names=names)


def _of_files(kind: _Kind, files: Files, read: Any, limit: int | None) -> DataSet:
    names, train = read(kind, files, kind.train)
    _, test = read(kind, files, (kind.test,))
    return DataSet(name=kind.name, train=train.take(slice(0, limit)), test=test, class_names=names)


def _from_pickle(
    kind: _Kind, files: Files, batches: tuple[str, ...]
) -> tuple[tuple[str, ...], Split]:
    pixels, labels = [], []
    for batch in batches:
        where, found = _pickle(files, batch)
        data, marks = found.get("data"), found.get(kind.labels)
        if not isinstance(data, numpy.ndarray) or data.shape[1:] != (_PIXELS,):
            raise DataError(f"{where}: data must be rows of {_PIXELS} bytes.")
        if not isinstance(marks, list) or not all(type(mark) is int for mark in marks):
            raise DataError(f"{where}: {kind.labels} must be a list of numbers.")
        if len(marks) != len(data):
            raise DataError(f"{where} has {len(data)} images and {len(marks)} labels.")
        pixels.append(data)
        labels += marks
    where, meta = _pickle(files, kind.meta)
    texts = meta.get(kind.label_names)
    if not isinstance(texts, list) or not all(isinstance(text, (str, bytes)) for text in texts):
        raise DataError(f"{where}: {kind.label_names} must be a list of texts.")
    names = tuple(text if isinstance(text, str) else text.decode("latin-1") for text in texts)
    return names, _split(numpy.concatenate(pixels), numpy.array(labels), len(names))


def _pickle(files: Files, name: str) -> tuple[str, dict[str, Any]]:
    path = files.named(name)
    where = f"{files.origin}: {path}"
    try:
        return where, read_pickle(files.read(path))
    except DataError as error:
        raise DataError(f"{where} is refused: {error}.") from error


def _from_binary(
    kind: _Kind, files: Files, batches: tuple[str, ...]
) -> tuple[tuple[str, ...], Split]:
    row = kind.label_bytes + _PIXELS
    records = []
    for batch in batches:
        path = files.named(f"{batch}.bin")
        content = numpy.frombuffer(files.read(path), numpy.uint8)
        if content.size % row or not content.size:
            raise DataError(
                f"{files.origin}: {path} has {content.size:,} bytes, which is no whole number of "
                f"records of {row} bytes; it is cut short. Copy or download it again."
            )
        records.append(content.reshape(-1, row))
    names = tuple(files.read(files.named(kind.names_file)).decode("latin-1").split())
    rows = numpy.concatenate(records)
    labels = rows[:, kind.label_bytes - 1].astype(numpy.int64)
    return names, _split(rows[:, kind.label_bytes :], labels, len(names))


def _split(pixels: Any, labels: Any, classes: int) -> Split:
    images = torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy())
    return Split(images=images, labels=torch.from_numpy(labels), classes=classes)
