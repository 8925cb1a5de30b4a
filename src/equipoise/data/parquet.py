"""Tables of encoded images: published data sets as parquet files in a folder, or on the hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch

from equipoise.data.dataset import DataError, Split
from equipoise.data.decode import decode
from equipoise.data.encoded import Encoded, EncodedImages


@dataclass(frozen=True, kw_only=True)
class Table:
    """Names that a data set has on the hub.

    Args:
        title: Name of the data set in messages.
        config: Configuration on the hub, which is also the folder of its parquet files there.
        image: Column of encoded images.
        label: Column of class indices.
        test: Name of the split that is used for testing.
    """

    title: str
    config: str
    image: str = "image"
    label: str = "label"
    test: str = "test"


def read_table(folder: Path | None, hub: str, table: Table) -> tuple[Encoded, Encoded] | None:
    """Read the training and the test split, from parquet files or from the hub.

    Args:
        folder: A copy of the hub's repository; ``None`` loads it from the hub, or from the cache
            that ``datasets`` keeps of it.
        hub: Repository on the hub, such as ``uoft-cs/cifar10``.
        table: Names of the configuration, columns and splits.

    Returns:
        Training and test split, or ``None`` if the folder holds no parquet files.

    Raises:
        DataError: If a file, split, column, image or label is missing, or cannot be read.
    """
    if folder is not None and not _parquet_files(folder, table, "train"):
        return None
    splits = _from_hub(hub, table) if folder is None else _from_folder(folder, table)
    origin = hub if folder is None else str(folder)
    train, test = (_encoded(splits[part], table, origin, part) for part in ("train", table.test))
    return train, test


def _parquet_files(folder: Path, table: Table, part: str) -> list[Path]:
    """Files of one split, in order, from the first of the usual folders that has some."""
    for place in (folder / "data", folder / table.config, folder):
        files = sorted(place.glob(f"{part}-*.parquet"))
        if files:
            return files
    return []


def _from_folder(folder: Path, table: Table) -> dict[str, Any]:
    """Read the files into ``datasets.Dataset`` in memory, without its cache of converted copies."""
    import datasets
    from pyarrow import parquet

    splits = {}
    for part in ("train", table.test):
        files = _parquet_files(folder, table, part)
        if not files:
            raise DataError(
                f"{folder} holds no data/{part}-*.parquet; give the folder of a whole copy of the "
                "data set (the one that holds the folder 'data')."
            )
        shards = []
        for file in files:
            try:
                # Without partitioning=None, a folder called "key=value" would become a column.
                shards.append(datasets.Dataset(parquet.read_table(file, partitioning=None)))
            except Exception as error:  # pyarrow and the JSON of the schema raise almost anything
                raise DataError(
                    f"{file} cannot be read as parquet ({error}); copy or download it again."
                ) from error
        try:
            splits[part] = datasets.concatenate_datasets(shards)
        except Exception as error:
            raise DataError(
                f"{files[0]} and the other files of {part} hold different columns ({error}); copy "
                "or download them again."
            ) from error
    return splits


def _from_hub(repository: str, table: Table) -> Any:
    import datasets

    try:
        splits = datasets.load_dataset(repository, table.config)
    except Exception as error:  # whatever the client raises when the hub cannot be reached
        raise DataError(
            f"{table.title} could not be loaded from the hub ({repository}: {error}). Give "
            "--data FOLDER with a copy on this machine; docs/how-to/data.md has the layouts."
        ) from error
    for part in ("train", table.test):
        if part not in splits:
            raise DataError(f"{repository} has no split {part}; it has {', '.join(splits)}.")
    return splits


def _encoded(split: Any, table: Table, origin: str, part: str) -> Encoded:
    """Images and labels of a ``datasets.Dataset``, each checked."""
    missing = sorted({table.image, table.label} - set(split.column_names))
    if missing:
        raise DataError(
            f"{origin}: {part} lacks the column {' and '.join(missing)}; it has "
            f"{sorted(split.column_names)}."
        )
    images = EncodedImages(split, table.image, origin, part)
    labels = split.with_format("arrow")[:][table.label].to_pylist()
    for number, label in enumerate(labels):
        if not isinstance(label, int):
            raise DataError(
                f"{images.where(number)} must have a whole number as its label, got {label!r}; "
                "copy or download the data set again."
            )
    if not labels:
        raise DataError(
            f"{origin}: {part} must have at least one image, got none; copy or download it again."
        )
    names = tuple(getattr(split.features[table.label], "names", None) or ())
    return Encoded(images=images, labels=labels, names=names)


def decode_all(encoded: Encoded, classes: int) -> tuple[Split, str]:
    """Decode all images of a split into memory.

    Args:
        encoded: Images of one size.
        classes: Number of classes.

    Returns:
        The colour images, and the name of their file format.

    Raises:
        DataError: If an image is broken, or two differ in size.
    """
    pixels: list[Any] = []
    file_format = ""
    for number, content in enumerate(encoded.images):
        where = encoded.images.where(number)
        try:
            image, image_format = decode(content)
        except DataError as error:
            raise DataError(f"{where} is broken: {error}.") from error
        file_format = file_format or image_format
        if pixels and image.shape != pixels[0].shape:
            raise DataError(
                f"images of {encoded.images.part} differ in size: {where} has (channels, height, "
                f"width) {image.shape}, the first one {pixels[0].shape}."
            )
        pixels.append(image)
    images = torch.from_numpy(numpy.stack(pixels))
    labels = torch.tensor(encoded.labels)
    return Split(images=images, labels=labels, classes=classes), file_format
