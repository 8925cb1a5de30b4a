"""Choose the data that a model is trained or evaluated on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from equipoise.data import SOURCES, DataSet, DataSource, ImageFolder, Split
from equipoise.recipes import from_json
from equipoise.runtime.errors import InvalidInput
from equipoise.runtime.seeds import derive_seed


def with_folder(source: DataSource, folder: Path) -> DataSource:
    """Read the same data set from another folder or file.

    Raises:
        ValueError: If the data set is not read from a folder or file.

    Example:
        >>> from equipoise.data import Cifar10
        >>> with_folder(Cifar10(limit=100), Path("/data/cifar10")).folder
        PosixPath('/data/cifar10')
    """
    field = next((name for name in ("folder", "path") if hasattr(source, name)), None)
    if field is None:
        name = type(source).__name__
        raise InvalidInput(f"{name} is not read from a folder; leave --data out.")
    changed: Any = {field: folder.resolve()}
    return replace(source, **changed)


def source_of(card: dict[str, Any], data: Path | None) -> DataSource:
    """The data set that a model was trained on.

    Args:
        card: The model's card.
        data: Folder of that data set, if it is elsewhere on this machine.

    Raises:
        ValueError: If the card does not name the data set.
    """
    if "dataset" not in card:
        raise InvalidInput(
            "the model does not say which data it was trained on; name the data set with --dataset."
        )
    source: DataSource = from_json(card["dataset"], DataSource)
    return source if data is None else with_folder(source, data)


def named_source(name: str, data: Path | None = None, size: int | None = None) -> DataSource:
    """A data set by its short name.

    Args:
        name: A key of ``SOURCES``.
        data: Its folder or file.
        size: Height and width to which images of an image folder are resized.

    Raises:
        ValueError: If the data set has no folder or a fixed image size.

    Example:
        >>> named_source("digits")
        Digits()
        >>> named_source("imagefolder", size=32).size
        32
    """
    source: DataSource = SOURCES[name]()
    if size is not None and not isinstance(source, ImageFolder):
        raise InvalidInput(
            f"--size is for image folders, got {size} for {name}, whose images have a fixed size; "
            "leave it out."
        )
    if isinstance(source, ImageFolder):
        source = replace(source, size=size)
    return source if data is None else with_folder(source, data)


def part_of(dataset: DataSet, card: dict[str, Any], part: Literal["test", "validation"]) -> Split:
    """The test images, or the validation images that were held out of a model's training.

    Args:
        dataset: The data set.
        card: The model's card.
        part: Which images.

    Raises:
        ValueError: If the card does not say which images were held out, or a class has another
            index in the data set than in the model.
    """
    _check_classes(card.get("classes") or [], dataset.class_names)
    if part == "test":
        return dataset.test
    if "validation_images" not in card or "seed" not in card:
        raise InvalidInput(
            "the model folder does not say which validation images were held out of its training; "
            "train it again with this version, or evaluate on the test part."
        )
    seed = derive_seed(card["seed"], "validation")
    return dataset.train.hold_out(card["validation_images"], seed)[1]


def _check_classes(trained: Sequence[str], names: Sequence[str]) -> None:
    for index, name in enumerate(trained):
        if name in names and names.index(name) != index:
            raise InvalidInput(
                f"class {name!r} must have the same index in the model and in the data, got "
                f"{index} in the model and {names.index(name)} in the data. The model has "
                f"{', '.join(trained)}; bring the data's classes into this order."
            )
