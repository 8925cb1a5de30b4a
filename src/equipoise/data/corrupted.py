"""Corrupted test sets in the layout of CIFAR-10-C."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from equipoise.data.dataset import DataError, Split
from equipoise.data.pixels import to_labels, to_uint8

SEVERITIES = 5
LABELS_FILE = "labels.npy"


@dataclass(frozen=True, kw_only=True)
class CorruptedSet:
    """A test set under several corruptions, each at five severities.

    Args:
        folder: The folder, with ``<corruption>.npy`` for each corruption: uint8 images
            ``(5 n, height, width, channel)``, those of severity 1 first; and ``labels.npy`` of
            ``n`` or ``5 n`` class indices.

    Source:
        Hendrycks and Dietterich 2019 (1903.12261); https://zenodo.org/records/2535967.

    Example:
        >>> data = CorruptedSet(folder=Path("CIFAR-10-C"))
        >>> fog = data.severities("fog", classes=10)  # doctest: +SKIP
    """

    folder: Path

    def corruptions(self) -> tuple[str, ...]:
        """Sorted names of the corruptions.

        Raises:
            DataError: If the folder or its files are missing.
        """
        names = sorted(path.stem for path in self.folder.glob("*.npy") if path.name != LABELS_FILE)
        if not names or not (self.folder / LABELS_FILE).is_file():
            raise DataError(
                f"{self.folder} must be a folder with {LABELS_FILE} and an .npy file of images for "
                "each corruption, as in CIFAR-10-C; check --corrupted."
            )
        return tuple(names)

    def severities(self, corruption: str, *, classes: int) -> tuple[Split, ...]:
        """Read one corruption.

        Args:
            corruption: Its name.
            classes: Number of classes.

        Returns:
            The images of each severity, ascending.

        Raises:
            DataError: If the arrays cannot be read or do not fit together.
        """
        pixels = self._array(f"{corruption}.npy")
        labels = self._array(LABELS_FILE)
        count = len(pixels) // SEVERITIES
        if not count or len(pixels) % SEVERITIES or len(labels) not in (count, len(pixels)):
            raise DataError(
                f"{self.folder / corruption}.npy must hold {SEVERITIES} severities of the same "
                f"images, and {LABELS_FILE} their labels, got {len(pixels)} images and "
                f"{len(labels)} labels."
            )
        splits = []
        for number in range(SEVERITIES):
            rows = slice(number * count, (number + 1) * count)
            split = Split(
                images=to_uint8(pixels[rows], name=f"{self.folder / corruption}.npy"),
                labels=to_labels(
                    labels[rows] if len(labels) > count else labels,
                    count,
                    name=str(self.folder / LABELS_FILE),
                ),
                classes=classes,
            )
            splits.append(split)
        return tuple(splits)

    def _array(self, name: str) -> Any:
        try:
            return numpy.load(self.folder / name, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{self.folder / name} cannot be read as a plain array ({error}); copy or download "
                "it again."
            ) from error
