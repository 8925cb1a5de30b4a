"""Tables of encoded images: parquet files in a folder, and data sets of the hub."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch

from equipoise.data.dataset import DataError, Split
from equipoise.data.decode import decode


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a data set of the hub calls things.

    Args:
        title: The data set's name for people.
        config: Its configuration on the hub, and the folder of its parquet files there.
        image: Column of encoded images.
        label: Column of classes.
        test: Name of the part that is used for tests.
    """

    title: str
    config: str
    image: str = "image"
    label: str = "label"
    test: str = "test"


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One part of such a table.

    Args:
        images: Encoded images.
        labels: Their classes.
        names: One name a class, or none if the table does not say.
        origin: Where it comes from.
        part: Its name there.
    """

    images: list[bytes]
    labels: list[int]
    names: tuple[str, ...]
    origin: str
    part: str

    def where(self, number: int) -> str:
        """An image's name in messages."""
        return f"{self.origin}: image {number} of {self.part}"

    def fingerprint(self) -> str:
        """A hash of all images."""
        found = hashlib.sha256()
        for content in self.images:
            found.update(hashlib.sha256(content).digest())
        return found.hexdigest()


def parquet_files(folder: Path, table: Table, part: str) -> list[Path]:
    """The parquet files of one part, from the first place that has some.

    Returns:
        Files in order, none if there are none: in ``data``, in the folder of the hub's
        configuration, or in the folder itself.
    """
    for place in (folder / "data", folder / table.config, folder):
        found = sorted(place.glob(f"{part}-*.parquet"))
        if found:
            return found
    return []


def from_parquet(folder: Path, table: Table) -> tuple[Encoded, Encoded]:
    """Read both parts of a folder of parquet files.

    Args:
        folder: Of a copy of the hub's repository.
        table: What its columns and parts are called.

    Returns:
        Training and test part.

    Raises:
        DataError: If a file or a column is missing or cannot be read.
    """
    import datasets
    from pyarrow import parquet

    parts = []
    for part in ("train", table.test):
        rows: list[dict[str, Any]] = []
        names: tuple[str, ...] = ()
        files = parquet_files(folder, table, part)
        if not files:
            raise DataError(
                f"{folder} holds no data/{part}-*.parquet; give the folder of a whole copy of the "
                "data set (the one that holds the folder 'data')."
            )
        for file in files:
            try:
                schema = parquet.read_schema(file)
                _refuse_missing(file, table, schema.names)
                rows += parquet.read_table(file, columns=[table.image, table.label]).to_pylist()
                names = _class_names(datasets.Features.from_arrow_schema(schema), table)
            except DataError:
                raise
            except Exception as error:  # whatever pyarrow and the schema's JSON raise
                raise DataError(
                    f"{file} cannot be read as parquet ({error}); copy or download it again."
                ) from error
        parts.append(_encoded(rows, table, names, str(folder), part))
    return parts[0], parts[1]


def from_hub(repository: str, table: Table) -> tuple[Encoded, Encoded]:
    """Load both parts from the hub, or from what ``datasets`` has of it in its cache.

    Args:
        repository: Such as ``uoft-cs/cifar10``.
        table: What its configuration, columns and parts are called.

    Returns:
        Training and test part.

    Raises:
        DataError: If it cannot be loaded, or lacks a column or a part.
    """
    import datasets

    try:
        found: Any = datasets.load_dataset(repository, table.config)
    except Exception as error:  # whatever the hub's client raises when it is out of reach
        raise DataError(
            f"{table.title} could not be loaded from the hub ({repository}: {error}). Give "
            "--data FOLDER with a copy on this machine; docs/how-to/data.md has the layouts."
        ) from error
    parts = []
    for part in ("train", table.test):
        if part not in found:
            raise DataError(f"{repository} has no part {part}; it has {', '.join(found)}.")
        rows = found[part]
        _refuse_missing(repository, table, rows.column_names)
        names = _class_names(rows.features, table)
        rows = rows.cast_column(table.image, datasets.Image(decode=False))
        parts.append(_encoded(rows, table, names, repository, part))
    return parts[0], parts[1]


def decoded(encoded: Encoded, classes: int) -> tuple[Split, str]:
    """Decode one part into memory.

    Args:
        encoded: Images of one size.
        classes: How many classes there are.

    Returns:
        The images in colour, and the format's name.

    Raises:
        DataError: If an image is broken, or two differ in size.
    """
    pixels: list[Any] = []
    coding = ""
    for number, content in enumerate(encoded.images):
        where = encoded.where(number)
        try:
            image, found = decode(content)
        except DataError as error:
            raise DataError(f"{where} is broken: {error}.") from error
        coding = coding or found
        if pixels and image.shape != pixels[0].shape:
            raise DataError(
                f"images of {encoded.part} differ in size: {where} has (channels, height, "
                f"width) {image.shape}, the first one {pixels[0].shape}."
            )
        pixels.append(image)
    images = torch.from_numpy(numpy.stack(pixels))
    return Split(images=images, labels=torch.tensor(encoded.labels), classes=classes), coding


def _encoded(
    rows: Iterable[dict[str, Any]], table: Table, names: tuple[str, ...], origin: str, part: str
) -> Encoded:
    found = Encoded(images=[], labels=[], names=names, origin=origin, part=part)
    for number, row in enumerate(rows):
        image, label = row[table.image], row[table.label]
        if label is None:
            raise DataError(f"{found.where(number)} has no label.")
        if not isinstance(image, dict) or not isinstance(image.get("bytes"), bytes):
            raise DataError(f"{found.where(number)} is broken: it holds no encoded image.")
        found.images.append(image["bytes"])
        found.labels.append(int(label))
    if not found.images:
        raise DataError(f"{origin} holds no image of {part}.")
    return found


def _class_names(features: Any, table: Table) -> tuple[str, ...]:
    return tuple(getattr(features[table.label], "names", None) or ())


def _refuse_missing(where: Path | str, table: Table, columns: list[str]) -> None:
    missing = sorted({table.image, table.label} - set(columns))
    if missing:
        raise DataError(
            f"{where} lacks the column {' and '.join(missing)}; it has {sorted(columns)}."
        )
