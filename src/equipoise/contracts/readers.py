"""The contract of a data reader: valid parts, and the same content each time."""

from dataclasses import dataclass

import torch

from equipoise.contracts.base import Check, equal, require
from equipoise.data import DataSet
from equipoise.models.io.validate_card import check_card
from equipoise.runtime.errors import InvalidInput

MOST_COMPARED = 1000
"""Number of evenly spaced images of each part that are compared between two loads."""


@dataclass(frozen=True)
class TwoLoads:
    """What a reader returns when it is called twice.

    Args:
        first: The first time.
        second: The second time.
    """

    first: DataSet
    second: DataSet


def both_parts_have_images(loads: TwoLoads) -> None:
    """There is something to train on, and something to test on."""
    dataset = loads.first
    for name, split in (("training", dataset.train), ("test", dataset.test)):
        require(len(split) > 0, f"the {name} part has no images")


def both_parts_have_the_same_shape_and_classes(loads: TwoLoads) -> None:
    """Each label has a name, and each name an index."""
    dataset = loads.first
    train, test = (tuple(split.images.shape[1:]) for split in (dataset.train, dataset.test))
    require(train == test, f"training images have the shape {train}, test images {test}")
    counts = {dataset.train.classes, dataset.test.classes, len(dataset.class_names)}
    require(
        len(counts) == 1,
        f"the training part has {dataset.train.classes} classes, the test part "
        f"{dataset.test.classes}, and there are {len(dataset.class_names)} class names",
    )


def class_names_can_stand_in_a_model_card(loads: TwoLoads) -> None:
    """They are printable and differ."""
    dataset = loads.first
    names = dataset.class_names
    require(len({*names}) == len(names), f"two classes have one name: {', '.join(names)}")
    try:
        check_card({"classes": list(names)})
    except InvalidInput as error:
        require(False, str(error))


def every_class_has_training_images(loads: TwoLoads) -> None:
    """A class without images cannot be learned."""
    dataset = loads.first
    counts = dataset.train.labels.bincount(minlength=dataset.classes)
    empty = [dataset.class_names[int(label)] for label in (counts == 0).nonzero()[:5, 0]]
    require(not empty, f"there are no training images of {', '.join(empty)}")


def pixels_use_the_range_0_to_255(loads: TwoLoads) -> None:
    """Floats in [0, 1] that were cast to whole numbers are nearly black."""
    images = _some(loads.first, "train")
    high = int(images.max())
    require(high > 1, f"the largest pixel is {high}; multiply floats in [0, 1] by 255 and round")
    require(bool(images.max() > images.min()), f"all pixels are {high}")


def a_second_load_gives_the_same_content(loads: TwoLoads) -> None:
    """In the same order: rows and validation images are chosen by their numbers."""
    first, second = loads.first, loads.second
    for part in ("train", "test"):
        labels = [getattr(dataset, part).labels for dataset in (first, second)]
        require(equal(*labels), f"the labels of {part} differ, or their order")
        require(equal(_some(first, part), _some(second, part)), f"the images of {part} differ")
    require(first.digest() == second.digest(), "class names or shapes differ")


def _some(dataset: DataSet, part: str) -> torch.Tensor:
    split = getattr(dataset, part)
    rows = torch.linspace(0, len(split) - 1, min(MOST_COMPARED, len(split))).long()
    images: torch.Tensor = split.images[rows]
    return images


READER_CHECKS: tuple[Check[TwoLoads], ...] = (
    both_parts_have_images,
    both_parts_have_the_same_shape_and_classes,
    class_names_can_stand_in_a_model_card,
    every_class_has_training_images,
    pixels_use_the_range_0_to_255,
    a_second_load_gives_the_same_content,
)
