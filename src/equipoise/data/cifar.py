"""CIFAR-10 and CIFAR-100, from any of their published layouts in a folder, or from the hub."""

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy
import torch

from equipoise.data.archives import Files, open_files
from equipoise.data.dataset import DataError, DataSet, Split
from equipoise.data.encoded import Encoded
from equipoise.data.parquet import Table, decode_all, read_table
from equipoise.data.pickles import read_pickle
from equipoise.runtime.errors import InvalidInput

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """What differs between CIFAR-10 and CIFAR-100."""

    name: str
    table: Table
    classes: int
    archive: str  # prefix of the names of archives and folders
    train: tuple[str, ...]  # file names of the batches
    test: str
    meta: str
    labels: str  # key of the labels in a pickle
    label_names: str  # key of the class names in the pickle ``meta``
    label_bytes: int  # per record of the binary version; the last one is the class
    names_file: str  # of the binary version


@dataclass(frozen=True, kw_only=True)
class _Cifar:
    """Base of both data sets.

    Args:
        folder: A folder that holds one of the layouts, or one of the archives: the hub's parquet
            files, the Python version (unpickled without running code), the binary version.
        limit: Use only this many training images, the first ones; ``None`` for all.
        hub: Repository on the hub that is used if there is no folder.

    Raises:
        ValueError: If the limit is below 1.
    """

    folder: Path | None = None
    limit: int | None = None
    hub: str

    _layout: ClassVar[_Layout]

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InvalidInput(
                f"limit must be 1 or more, or None for all images, got {self.limit}."
            )

    def load(self) -> DataSet:
        """Read all images.

        Returns:
            The data set ``cifar10`` or ``cifar100``, with ``-jpeg`` appended if the stored images
            are JPEG.

        Raises:
            DataError: If the folder, a file, a column or an image cannot be read, or the hub cannot
                be reached.
        """
        layout = self._layout
        encoded = read_table(self.folder, self.hub, layout.table)
        if encoded is not None:
            return _of_table(layout, *encoded, self.limit)
        assert self.folder is not None  # the hub always has parquet files
        suffixes = ["batches-py", "batches-bin", "python", "binary"]
        suffixes += ["python.tar.gz", "binary.tar.gz"]
        paths = [self.folder / f"{layout.archive}-{suffix}" for suffix in suffixes]
        for path in [self.folder, *paths]:
            if not path.exists():
                continue
            with open_files(path, deep=False) as files:
                names = {PurePosixPath(name).name for name in files.names}
                if layout.train[0] in names and layout.meta in names:
                    return _of_files(layout, files, _from_pickle, self.limit)
                if f"{layout.train[0]}.bin" in names:
                    return _of_files(layout, files, _from_binary, self.limit)
        raise DataError(
            f"{self.folder} holds no data/train-*.parquet, and no {layout.table.title} in another "
            f"layout: {layout.archive}-python.tar.gz, {layout.archive}-binary.tar.gz, or what they "
            "unpack to; check --data."
        )


@dataclass(frozen=True, kw_only=True)
class Cifar10(_Cifar):
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 in ten classes.

    Source:
        Krizhevsky 2009; https://www.cs.toronto.edu/~kriz/cifar.html.

    Example:
        >>> from equipoise.data import Cifar10
        >>> source = Cifar10(folder=Path("data/cifar10"), limit=1000)
        >>> data = source.load()  # doctest: +SKIP
    """

    hub: str = "uoft-cs/cifar10"

    _layout: ClassVar[_Layout] = _Layout(
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


@dataclass(frozen=True, kw_only=True)
class Cifar100(_Cifar):
    """CIFAR-100 with its fine labels: 50,000 training and 10,000 test images in 100 classes.

    Source:
        Krizhevsky 2009; https://www.cs.toronto.edu/~kriz/cifar.html.

    Example:
        >>> from equipoise.data import Cifar100
        >>> data = Cifar100().load()  # from the hub  # doctest: +SKIP
    """

    hub: str = "uoft-cs/cifar100"

    _layout: ClassVar[_Layout] = _Layout(
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


def _of_table(layout: _Layout, train: Encoded, test: Encoded, limit: int | None) -> DataSet:
    if train.names != test.names:
        raise DataError(f"{train.images.origin}: train and test have different class names.")
    names = train.names or tuple(map(str, range(layout.classes)))
    limited = replace(train, images=train.images[:limit], labels=train.labels[:limit])
    (train_split, file_format), (test_split, _) = (
        decode_all(encoded, len(names)) for encoded in (limited, test)
    )
    name = f"{layout.name}-jpeg" if file_format == "JPEG" else layout.name
    return DataSet(name=name, train=train_split, test=test_split, class_names=names)


def _of_files(layout: _Layout, files: Files, read: Any, limit: int | None) -> DataSet:
    names, train = read(layout, files, layout.train)
    _, test = read(layout, files, (layout.test,))
    return DataSet(
        name=layout.name, train=train.take(slice(0, limit)), test=test, class_names=names
    )


def _from_pickle(
    layout: _Layout, files: Files, batches: tuple[str, ...]
) -> tuple[tuple[str, ...], Split]:
    pixels, labels = [], []
    for batch in batches:
        where, content = _pickle(files, batch)
        rows, classes = content.get("data"), content.get(layout.labels)
        if not isinstance(rows, numpy.ndarray) or rows.shape[1:] != (_PIXELS,):
            raise DataError(f"{where}: data must be rows of {_PIXELS} bytes.")
        if not isinstance(classes, list) or not all(type(label) is int for label in classes):
            raise DataError(f"{where}: {layout.labels} must be a list of numbers.")
        if len(classes) != len(rows):
            raise DataError(f"{where} has {len(rows)} images and {len(classes)} labels.")
        pixels.append(rows)
        labels += classes
    where, meta = _pickle(files, layout.meta)
    texts = meta.get(layout.label_names)
    if not isinstance(texts, list) or not all(isinstance(text, (str, bytes)) for text in texts):
        raise DataError(f"{where}: {layout.label_names} must be a list of texts.")
    names = tuple(text if isinstance(text, str) else text.decode("latin-1") for text in texts)
    return names, _split(numpy.concatenate(pixels), numpy.array(labels), len(names))


def _pickle(files: Files, name: str) -> tuple[str, dict[str, Any]]:
    path = files.find(name)
    where = f"{files.origin}: {path}"
    try:
        return where, read_pickle(files.read(path))
    except DataError as error:
        raise DataError(f"{where} is rejected: {error}.") from error


def _from_binary(
    layout: _Layout, files: Files, batches: tuple[str, ...]
) -> tuple[tuple[str, ...], Split]:
    row = layout.label_bytes + _PIXELS
    records = []
    for batch in batches:
        path = files.find(f"{batch}.bin")
        content = numpy.frombuffer(files.read(path), numpy.uint8)
        if content.size % row or not content.size:
            raise DataError(
                f"{files.origin}: {path} must hold a whole number of records of {row} bytes, got "
                f"{content.size:,} bytes; it is cut short. Copy or download it again."
            )
        records.append(content.reshape(-1, row))
    names = tuple(files.read(files.find(layout.names_file)).decode("latin-1").split())
    rows = numpy.concatenate(records)
    labels = rows[:, layout.label_bytes - 1].astype(numpy.int64)
    return names, _split(rows[:, layout.label_bytes :], labels, len(names))


def _split(pixels: Any, labels: Any, classes: int) -> Split:
    images = torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy())
    return Split(images=images, labels=torch.from_numpy(labels), classes=classes)
