"""A data set, and its training and test split."""

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from equipoise.data.memory_mapped import MappedImages
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images

IMBALANCE_RATIO = 2.0
"""Ratio of the largest to the smallest class above which a data set counts as imbalanced."""


class DataError(InvalidInput):
    """Data cannot be used; the message names the file, the rule and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images and labels of one split of a data set.

    Args:
        images: uint8 tensor ``(n, channel, height, width)``, or ``MappedImages`` for a large data
            set, which stays in its file whatever device the labels are on.
        labels: Class indices ``(n,)``; stored as int64, which losses need.
        classes: Number of classes; labels are in ``[0, classes)``.

    Raises:
        DataError: If shapes, types or labels do not fit.

    Example:
        >>> import torch
        >>> images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
        >>> split = Split(images=images, labels=torch.tensor([0, 1, 1, 0]), classes=2)
        >>> pixels, labels = split.batch(slice(0, 3))
        >>> pixels.dtype, labels.tolist()
        (torch.float32, [0, 1, 1])
    """

    images: UInt8[Tensor, "n channel height width"] | MappedImages
    labels: Int[Tensor, " n"]
    classes: int

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise DataError(
                "images must be uint8 of shape (n, channel, height, width), got "
                f"{self.images.dtype} of shape {tuple(self.images.shape)}."
            )
        if self.labels.ndim != 1 or self.labels.dtype not in (torch.int64, torch.int32):
            raise DataError(
                f"labels must be whole numbers of shape (n,), got {self.labels.dtype} of shape "
                f"{tuple(self.labels.shape)}."
            )
        object.__setattr__(self, "labels", self.labels.long())
        if len(self.images) != len(self.labels):
            raise DataError(
                f"a split must have one label per image, got {len(self.images)} images and "
                f"{len(self.labels)} labels."
            )
        if len(self.labels) == 0:
            raise DataError("a split must have at least one image, got none.")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= self.classes:
            raise DataError(
                f"labels must be in [0, {self.classes}), got {low}..{high}; "
                "check the number of classes or the label column."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def none(self) -> "Split":
        """The same kind of images, but none of them: the training split of a test set."""
        none = object.__new__(Split)  # passes by the rule that a split has images
        fields = {"images": self.images[:0], "labels": self.labels[:0], "classes": self.classes}
        for name, value in fields.items():
            object.__setattr__(none, name, value)
        return none

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        return self.labels.device

    def to(self, device: torch.device | str) -> "Split":
        """Copy the split to another device; ``MappedImages`` stay in their file."""
        images = self.images
        if not isinstance(images, MappedImages):
            images = images.to(device)
        return Split(images=images, labels=self.labels.to(device), classes=self.classes)

    def take(self, rows: slice | Int[Tensor, " rows"]) -> "Split":
        """Select rows as a new split."""
        images = self.images
        images = images.take(rows) if isinstance(images, MappedImages) else images[rows]
        return Split(images=images, labels=self.labels[rows], classes=self.classes)

    def first(self, count: int) -> "Split":
        """Select some images for a quick evaluation.

        Args:
            count: Number of images; all, if the split has fewer.

        Returns:
            The first ``count`` images. If the labels never decrease, as in a split that is sorted
            by class, ``count`` evenly spaced images instead, so that all classes are represented.

        Raises:
            DataError: If the count is below 1.
        """
        return self.take(self.first_rows(count))

    def first_rows(self, count: int) -> slice | Int[Tensor, " rows"]:
        """Return the rows that ``first`` selects."""
        if count < 1:
            raise DataError(f"images must be 1 or more, got {count}.")
        if count < len(self) and bool((self.labels.diff() >= 0).all()):
            return torch.arange(count, device=self.device) * len(self) // count
        return slice(0, count)

    def batch(self, rows: slice | Int[Tensor, " rows"]) -> tuple[Images, Int[Tensor, " rows"]]:
        """Select rows as float32 images in [0, 1] and their labels."""
        return self.images[rows].to(self.device).float().div_(255.0), self.labels[rows]

    def hold_out(self, count: int, seed: int) -> tuple["Split", "Split"]:
        """Hold out ``count`` random images.

        Args:
            count: Number of images, at least 1 and fewer than the split has.
            seed: Random seed of the selection.

        Returns:
            The remaining images, and the held-out ones.

        Raises:
            DataError: If no image would remain, or none be held out.
        """
        if not 0 < count < len(self):
            raise DataError(
                f"images to hold out must be between 1 and {len(self) - 1}, got {count}."
            )
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.take(order[count:]), self.take(order[:count])


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A loaded data set.

    Args:
        name: Name in records.
        train: Training split; validation images are held out of it, never of ``test``. A test set
            has ``test.none()`` here.
        test: Test split, used for final scores only.
        class_names: Name of each class.
        notes: Remarks about the reading, such as images that were left out.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return self.train.images.shape[1]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.train.classes

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width of the images."""
        return tuple(self.train.images.shape[1:])

    def digest(self) -> str:
        """Hash of the class names, the labels and some images, to recognise the same data.

        Returns:
            16 hexadecimal digits. They cover all labels of both splits and 64 evenly spaced images
            of each; reading all images of a large file would take long.
        """
        content = hashlib.sha256(repr((self.image_shape, self.class_names)).encode())
        for split in filter(len, (self.train, self.test)):
            rows = torch.linspace(0, len(split) - 1, min(64, len(split))).long()
            content.update(split.labels.cpu().to(torch.int64).numpy().tobytes())
            content.update(split.images[rows].cpu().contiguous().numpy().tobytes())
        return content.hexdigest()[:16]

    def summary(self) -> str:
        """Summarise the data set in one line.

        Returns:
            Number of images of each split, their size, the number of classes, the least and the
            most frequent class of the training split (of a test set, the test split), whether it is
            imbalanced, and the notes.
        """
        channels, height, width = self.train.images.shape[1:]
        part, split = ("training", self.train) if len(self.train) else ("test", self.test)
        counts = split.labels.bincount(minlength=self.classes)
        rarest, commonest = int(counts.argmin()), int(counts.argmax())
        least, most = int(counts[rarest]), int(counts[commonest])
        spread = (
            f"{least:,} ({self.class_names[rarest]}) to {most:,} ({self.class_names[commonest]})"
        )
        training = f"{len(self.train):,} training and " if len(self.train) else ""
        parts = [
            f"{self.name}: {training}{len(self.test):,} test images, "
            f"{height}x{width}, {'grey' if channels == 1 else f'{channels} channels'}",
            f"{self.classes} classes of {spread if most > least else f'{most:,}'} {part} images",
        ]
        if most > IMBALANCE_RATIO * least:
            parts.append("imbalanced: look at the accuracy of each class")
        return "; ".join([*parts, *self.notes]) + "."
