"""Data sets of the library ``datasets``: which of their columns are images and labels."""

from collections.abc import Mapping
from typing import Any

from equipoise.data.dataset import DataError

LABELS = ("label", "labels", "fine_label", "class", "cls", "target")
"""Names of a column of labels; the first one that exists is used, unless a column is declared to
hold class labels."""


def find_columns(features: Mapping[str, Any], where: str) -> tuple[str, str]:
    """Find the column of images and the column of labels.

    Args:
        features: The features of a ``datasets.Dataset``.
        where: Name of the data set in messages.

    Raises:
        DataError: If there is not exactly one column of images, or no column of labels.

    Example:
        >>> from datasets import ClassLabel, Image
        >>> find_columns({"img": Image(), "kind": ClassLabel(names=["cat", "dog"])}, "pets")
        ('img', 'kind')
    """
    import datasets

    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if len(images) != 1:
        raise DataError(
            f"{where} must have exactly one column of images, got {images or 'none'} among "
            f"{list(features)}; select the columns with select_columns, or declare one with "
            "cast_column(name, datasets.Image())."
        )
    declared = [
        name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)
    ]
    named = [name for name in LABELS if name in features]
    labels = declared if len(declared) == 1 else named
    if not labels:
        raise DataError(
            f"{where} must have a column of labels ({', '.join(LABELS)}), got {list(features)}; "
            "rename one with rename_column."
        )
    return images[0], labels[0]
