"""The parts of a data set, and a data set."""

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from equipoise.data.memory_mapped import MappedImages
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images

IMBALANCED = 2.0
"""A class with this many times the images of another makes a set imbalanced."""


class DataError(InvalidInput):
    """Data that cannot be used; the message names the file, the rule and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images and labels of one part of a data set.

    Args:
        images: uint8, ``(n, channel, height, width)``. A large set is ``MappedImages``: it stays in
            its file, whatever device its labels are on.
        labels: Class indices ``(n,)``, kept as int64, which losses need.
        classes: How many classes there are; labels lie in ``[0, classes)``.

    Raises:
        DataError: If shapes, types or labels do not fit.
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
            raise DataError(f"{len(self.images)} images have {len(self.labels)} labels.")
        if len(self.labels) == 0:
            raise DataError("a split must hold at least one image, got none.")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= self.classes:
            raise DataError(
                f"labels must be in [0, {self.classes}), got {low}..{high}; "
                "check the number of classes or the label column."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where batches are handed out."""
        return self.labels.device

    def to(self, device: torch.device | str) -> "Split":
        """The same split on another device; ``MappedImages`` stay in their file."""
        found = self.images
        images = found if isinstance(found, MappedImages) else found.to(device)
        return Split(images=images, labels=self.labels.to(device), classes=self.classes)

    def take(self, rows: slice | Int[Tensor, " rows"]) -> "Split":
        """The chosen rows as a split of their own."""
        found = self.images
        images = found.take(rows) if isinstance(found, MappedImages) else found[rows]
        return Split(images=images, labels=self.labels[rows], classes=self.classes)

    def first(self, count: int) -> "Split":
        """So many images, for a quicker look: the first ones, where classes are mixed.

        Args:
            count: How many; all, if there are no more.

        Returns:
            The first ``count`` images; where labels never fall, as in a part that is sorted by
            class, ``count`` images at equal distances over the whole of it, so that no class is
            left out before its turn.

        Raises:
            DataError: If the count is below 1.
        """
        if count < 1:
            raise DataError(f"images must be 1 or more, got {count}.")
        if count < len(self) and bool((self.labels.diff() >= 0).all()):
            return self.take(torch.arange(count, device=self.device) * len(self) // count)
        return self.take(slice(0, count))

    def batch(self, rows: slice | Int[Tensor, " rows"]) -> tuple[Images, Int[Tensor, " rows"]]:
        """The chosen rows as float32 images in [0, 1] and their labels."""
        return self.images[rows].to(self.device).float().div_(255.0), self.labels[rows]

    def hold_out(self, count: int, seed: int) -> tuple["Split", "Split"]:
        """Part with ``count`` images drawn by ``seed``.

        Returns:
            What is left, and what was held out.

        Raises:
            DataError: If nothing would be left, or nothing held out.
        """
        self.check_held_out(count)
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.take(order[count:]), self.take(order[:count])

    def check_held_out(self, count: int) -> None:
        """Refuse to hold out none of the images, or all.

        Raises:
            DataError: If ``count`` is below 1, or nothing would be left.
        """
        if not 0 < count < len(self):
            raise DataError(
                f"validation images must be between 1 and {len(self) - 1}, got {count}; "
                "set --loop.validation-images."
            )


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What a source loads to.

    Args:
        name: Goes into every record made from it.
        train: Training part; validation images are held out of it, never of ``test``.
        test: Test part, used for final scores only.
        class_names: One name a class.
        notes: What a reader should know about how it was read, such as images left out.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Channels of its images."""
        return self.train.images.shape[1]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.train.classes

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width of its images."""
        return tuple(self.train.images.shape[1:])

    def digest(self) -> str:
        """A hash by which the same data know each other: of classes, labels and a few images.

        Returns:
            16 hexadecimal digits. All labels of both parts count, and 64 images of each at equal
            distances: many images may lie in a file that takes long to read.
        """
        found = hashlib.sha256(repr((self.image_shape, self.class_names)).encode())
        for part in (self.train, self.test):
            some = torch.linspace(0, len(part) - 1, min(64, len(part))).long()
            found.update(part.labels.cpu().to(torch.int64).numpy().tobytes())
            found.update(part.images[some].cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def summary(self) -> str:
        """What it holds, in one line.

        Returns:
            Images of each part, their size, the number of classes, the least and the most frequent
            class, whether the training part is imbalanced, and the notes.
        """
        channels, height, width = self.train.images.shape[1:]
        counts = self.train.labels.bincount(minlength=self.classes)
        few, many = int(counts.argmin()), int(counts.argmax())
        least, most = int(counts[few]), int(counts[many])
        spread = f"{least:,} ({self.class_names[few]}) to {most:,} ({self.class_names[many]})"
        parts = [
            f"{self.name}: {len(self.train):,} training and {len(self.test):,} test images, "
            f"{height}x{width}, {'grey' if channels == 1 else f'{channels} channels'}",
            f"{self.classes} classes of {spread if most > least else f'{most:,}'} training images",
        ]
        if most > IMBALANCED * least:
            parts.append("imbalanced: look at the accuracy of each class")
        return "; ".join([*parts, *self.notes]) + "."
