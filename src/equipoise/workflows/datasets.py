"""Which data a model is judged on: its own, or named ones, and which part of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from equipoise.data import SOURCES, DataSet, DataSource, ImageFolder, Split
from equipoise.recipes import from_json
from equipoise.runtime.seeds import derive_seed


def with_folder(source: DataSource, folder: Path) -> DataSource:
    """The same source, read from another folder or file.

    Raises:
        ValueError: If it is not read from one.
    """
    place = next((field for field in ("folder", "path") if hasattr(source, field)), None)
    if place is None:
        name = type(source).__name__
        raise ValueError(f"{name} is not read from a folder, so --data has no meaning for it.")
    changed: Any = {place: folder.resolve()}
    return replace(source, **changed)


def source_of(card: dict[str, Any], data: Path | None) -> DataSource:
    """The data that a model was trained on.

    Args:
        card: The model's card.
        data: Folder of that data, if it lies elsewhere here.

    Raises:
        ValueError: If the card does not say.
    """
    if "dataset" not in card:
        raise ValueError(
            "the model does not say which data it was trained on; name it with --dataset."
        )
    source: DataSource = from_json(card["dataset"], DataSource)
    return source if data is None else with_folder(source, data)


def named_source(name: str, data: Path | None = None, size: int | None = None) -> DataSource:
    """A data source by its short name.

    Args:
        name: One of ``SOURCES``.
        data: Its folder or file.
        size: For an image folder: the side to which images are brought.

    Raises:
        ValueError: If the source has no folder or no such size.
    """
    source: DataSource = SOURCES[name]()
    if size is not None and not isinstance(source, ImageFolder):
        raise ValueError(f"--size is for an image folder; images of {name} have their own size.")
    if isinstance(source, ImageFolder):
        source = replace(source, size=size)
    return source if data is None else with_folder(source, data)


def part_of(dataset: DataSet, card: dict[str, Any], part: Literal["test", "validation"]) -> Split:
    """The images to evaluate on: test images, or those that were held out of this training.

    Args:
        dataset: The data.
        card: The model's card.
        part: Which of them.

    Raises:
        ValueError: If the card does not say which images were held out, or the data have one of the
            model's classes in another place.
    """
    _check_classes(card.get("classes") or [], dataset.class_names)
    if part == "test":
        return dataset.test
    if "validation_images" not in card or "seed" not in card:
        raise ValueError(
            "the model folder does not say which validation images were held out of its training; "
            "train it again with this version, or evaluate on the test part."
        )
    seed = derive_seed(card["seed"], "validation")
    return dataset.train.hold_out(card["validation_images"], seed)[1]


def _check_classes(trained: Sequence[str], found: Sequence[str]) -> None:
    for place, name in enumerate(trained):
        if name in found and found.index(name) != place:
            raise ValueError(
                f"the model's class {name!r} is number {place}, that of the data is number "
                f"{found.index(name)}: answers would be compared with other classes. The model has "
                f"{', '.join(trained)}; the data must have the same classes in this order."
            )
