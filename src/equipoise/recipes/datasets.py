"""Choose the data that a model is trained or evaluated on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from equipoise.data import (
    SOURCES,
    DataSet,
    DataSource,
    HuggingFace,
    ImageFolder,
    ImportedData,
    Split,
    recognise,
)
from equipoise.data.formats import located
from equipoise.recipes import from_json
from equipoise.runtime.errors import InvalidInput
from equipoise.runtime.seeds import derive_seed
from equipoise.runtime.trust import names_function


def source_of(card: dict[str, Any], data: Path | None) -> DataSource:
    """The data set that a model was trained on, or the one at a path.

    Args:
        card: The model's card.
        data: Folder or file of that data set, if it is elsewhere on this machine, or of another
            one, whose format is recognised.

    Raises:
        ValueError: If neither card nor path name a data set.
    """
    trained = from_json(card["dataset"], DataSource) if "dataset" in card else None
    if data is not None:
        return recognise(data, like=trained)
    if trained is None:
        raise InvalidInput(
            "the model does not say which data it was trained on; name them with --data, or a "
            "data set with --dataset."
        )
    return trained


def named_source(name: str | None, data: Path | None = None, size: int | None = None) -> DataSource:
    """A data set by its short name, or by its path alone.

    Args:
        name: A key of ``SOURCES``, or the ``module:function`` that reads data of your own; ``None``
            recognises the format of ``data``.
        data: Its folder or file.
        size: Height and width to which images are resized.

    Raises:
        ValueError: If there is neither name nor path, no data set of that name, or the data set
            has no folder, or a fixed image size.

    Example:
        >>> named_source("digits")
        Digits()
        >>> named_source("imagefolder", size=32).size
        32
    """
    if name in SOURCES:
        source: DataSource = SOURCES[name]()
    elif names_function(name):
        source = ImportedData(function=str(name))
    elif name is not None:
        raise InvalidInput(
            f"--dataset must be one of {', '.join(SOURCES)}, or the module:function that reads "
            f"your own data, got {name!r}."
        )
    elif data is not None:
        source = recognise(data)
    else:
        raise InvalidInput("--size needs --data or --dataset; add one, or leave --size out.")
    if size is not None:
        if not isinstance(source, ImageFolder | HuggingFace):
            raise InvalidInput(
                f"--size is for folders of images, got {size} for {type(source).__name__}, whose "
                "images have a fixed size; leave it out."
            )
        source = replace(source, size=size)
    return source if data is None else located(source, data)


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
