"""Columns of images and of labels in a ``datasets.Dataset``."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from equipoise.data.dataset import DataError
from equipoise.data.pixels import number_classes

LABELS = ("label", "labels", "fine_label", "class", "cls", "target")
"""Names of a column of labels; the first one that exists is used, unless a column is declared to
hold class labels."""


def find_columns(
    features: Mapping[str, Any],
    where: str,
    *,
    image: str | None = None,
    label: str | None = None,
    remedy: str = "select them with select_columns and name them with rename_column",
) -> tuple[str, str]:
    """Find the column of images and the column of labels.

    Args:
        features: The features of a ``datasets.Dataset``.
        where: Name of the data set in messages.
        image: Column of images, if it is known.
        label: Column of labels, if it is known.
        remedy: How to name the columns, for messages.

    Raises:
        DataError: If a column is missing, there is not exactly one of images, or none of labels.

    Example:
        >>> from datasets import ClassLabel, Image
        >>> find_columns({"img": Image(), "kind": ClassLabel(names=["cat", "dog"])}, "pets")
        ('img', 'kind')
    """
    import datasets

    for column in (image, label):
        if column is not None and column not in features:
            raise DataError(f"{where} lacks the column {column}; it has {', '.join(features)}.")

    def of_type(kind: type) -> list[str]:
        return [name for name, feature in features.items() if isinstance(feature, kind)]

    images = [image] if image else of_type(datasets.Image)
    if len(images) != 1:
        raise DataError(
            f"{where} must have exactly one column of images, got {images or 'none'} among "
            f"{list(features)}; {remedy}."
        )
    declared = of_type(datasets.ClassLabel)
    named = [name for name in LABELS if name in features]
    labels = [label] if label else declared if len(declared) == 1 else named
    if not labels:
        raise DataError(
            f"{where} must have a column of labels ({', '.join(LABELS)}), got {list(features)}; "
            f"{remedy}."
        )
    return images[0], labels[0]


def read_labels(split: Any, column: str, where: str) -> tuple[list[Any], tuple[str, ...]]:
    """Read the labels of a split.

    Args:
        split: A ``datasets.Dataset``.
        column: Its column of labels.
        where: Name of the split in messages.

    Returns:
        The labels as they are stored, whole numbers or names, and the declared names of the
        classes.

    Raises:
        DataError: If there are none, or one is missing or of another type.
    """
    labels = split.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    names = tuple(getattr(split.features[column], "names", None) or ())
    if not labels:
        raise DataError(f"{where} must have at least one image, got none.")
    kinds = {type(label) for label in labels}
    if kinds not in ({int}, {str}) or (names and min(labels) < 0):
        wrong = next(label for label in labels if label is None or not isinstance(label, str))
        wrong = min(labels) if kinds == {int} else wrong
        raise DataError(
            f"{where} must have a whole number or a name as each label in the column {column}, got "
            f"{wrong!r}; a split without labels cannot be used: leave it out, or name another one "
            "with --dataset.test."
        )
    return labels, names


def number_labels(
    read: list[tuple[list[Any], tuple[str, ...]]], origin: str, *, test_only: bool
) -> tuple[list[Int[Tensor, " n"]], tuple[str, ...], tuple[str, ...]]:
    """Number the classes.

    Args:
        read: Labels and declared names of each split, the training split first.
        origin: Name of the data in messages.
        test_only: Whether the only split is for testing; its numbers are then kept as they are.

    Returns:
        Class indices of each split, names of the classes, and a note if labels were renumbered.

    Raises:
        DataError: If the splits declare different names, or a test image has a label that no
            training image has.
    """
    labels, names = [values for values, _ in read], read[0][1]
    if any(declared != names for _, declared in read):
        raise DataError(f"{origin}: train and test have different class names.")
    if not names and isinstance(labels[0][0], str):
        names = tuple(sorted(set(labels[0])))
        index = {name: position for position, name in enumerate(names)}
        unknown = [label for values in labels for label in values if label not in index]
        if unknown:
            raise DataError(
                f"{origin}: each label of a test image must have training images, got "
                f"{unknown[0]!r}, which none has; correct the labels."
            )
        labels = [[index[label] for label in values] for values in labels]
    indices = [torch.tensor(values) for values in labels]
    if names:
        return indices, names, ()
    if test_only:
        return indices, tuple(map(str, range(max(labels[0]) + 1))), ()
    train, test, names, notes = number_classes(indices[0], indices[-1], origin)
    return [train, test], names, notes
