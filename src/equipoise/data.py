"""Data sets as uint8 tensors, handed out as float images in [0, 1]; augmentation on the device.

A source (``Digits()``, ``Cifar10(folder=...)``) is a small frozen description that a recipe stores;
``source.load()`` reads it. Nothing here normalises: that is a layer of the model, so that an
epsilon is always in pixel units.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.nn import functional

from equipoise.threat import Images


class DataError(ValueError):
    """Data that cannot be used; the message names the file, the rule and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images and labels of one part of a data set.

    Args:
        images: uint8, ``(n, channel, height, width)``.
        labels: Class indices ``(n,)``.
        classes: How many classes there are; labels lie in ``[0, classes)``.

    Raises:
        DataError: If shapes, types or labels do not fit.
    """

    images: UInt8[Tensor, "n channel height width"]
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

    def to(self, device: torch.device | str) -> "Split":
        """The same split on another device."""
        return Split(
            images=self.images.to(device), labels=self.labels.to(device), classes=self.classes
        )

    def take(self, rows: slice | Int[Tensor, " rows"]) -> "Split":
        """The chosen rows as a split of their own."""
        return Split(images=self.images[rows], labels=self.labels[rows], classes=self.classes)

    def batch(self, rows: slice | Int[Tensor, " rows"]) -> tuple[Images, Int[Tensor, " rows"]]:
        """The chosen rows as float32 images in [0, 1] and their labels."""
        return self.images[rows].float().div_(255.0), self.labels[rows]

    def hold_out(self, count: int, seed: int) -> tuple["Split", "Split"]:
        """Part with ``count`` images drawn by ``seed``.

        Returns:
            What is left, and what was held out.

        Raises:
            DataError: If nothing would be left, or nothing held out.
        """
        if not 0 < count < len(self):
            raise DataError(
                f"validation images must be between 1 and {len(self) - 1}, got {count}; "
                "set loop.validation_images."
            )
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.take(order[count:]), self.take(order[:count])


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What a source loads to.

    Args:
        name: Goes into every record made from it.
        train: Training part; validation images are held out of it, never of ``test``.
        test: Test part, used for final scores only.
        class_names: One name a class.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]

    @property
    def channels(self) -> int:
        """Channels of its images."""
        return self.train.images.shape[1]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.train.classes


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random shifts and flips, one draw an image, computed on the images' device.

    Args:
        shift: Pad by this many pixels and crop back at a random place.
        padding: What the border is filled with. ``"reflect"`` leaves no constant border that an
            attack colours and that a detector of attacks learns in place of the attack.
        flip: Mirror each image left to right with probability 1/2.
    """

    shift: int = 0
    padding: Literal["zeros", "reflect"] = "zeros"
    flip: bool = False

    def __call__(self, images: Images, generator: torch.Generator) -> Images:
        """Augment a batch.

        Args:
            images: Images in [0, 1].
            generator: The only source of randomness.

        Returns:
            Images of the same shape.
        """
        batch, _, height, width = images.shape
        if self.shift:
            mode = "constant" if self.padding == "zeros" else "reflect"
            padded = functional.pad(images, [self.shift] * 4, mode=mode)
            places = torch.randint(
                0, 2 * self.shift + 1, (2, batch), generator=generator, device=generator.device
            ).to(images.device)
            rows = places[0][:, None] + torch.arange(height, device=images.device)
            columns = places[1][:, None] + torch.arange(width, device=images.device)
            index = torch.arange(batch, device=images.device)[:, None, None]
            images = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
            images = images.permute(0, 3, 1, 2)
        if self.flip:
            coin = torch.rand(batch, generator=generator, device=generator.device) < 0.5
            images = torch.where(
                coin.to(images.device)[:, None, None, None], images.flip(3), images
            )
        return images.contiguous()


@dataclass(frozen=True, kw_only=True)
class Digits:
    """scikit-learn's 1,797 handwritten digits, 8x8, one channel, ten classes; needs no download.

    450 images, drawn once and for all by a fixed seed, are the test part.

    Source:
        UCI "Optical Recognition of Handwritten Digits", test part, as ``load_digits`` ships it.
    """

    def load(self) -> DataSet:
        """Read the digits.

        Returns:
            The data set ``digits``: 1,347 training and 450 test images.
        """
        from sklearn.datasets import load_digits

        digits = load_digits()
        levels = numpy.rint(digits.images * (255 / 16)).astype(numpy.uint8)  # levels 0 to 16
        whole = Split(
            images=torch.from_numpy(levels)[:, None],
            labels=torch.from_numpy(digits.target.astype(numpy.int64)),
            classes=10,
        )
        train, test = whole.hold_out(450, seed=0)
        return DataSet(
            name="digits", train=train, test=test, class_names=tuple(str(i) for i in range(10))
        )


@dataclass(frozen=True, kw_only=True)
class Cifar10:
    """CIFAR-10 from a folder in the parquet layout of the hub's ``uoft-cs/cifar10``.

    Args:
        folder: Holds ``data/train-*.parquet`` and ``data/test-*.parquet`` with the columns ``img``
            (an encoded image) and ``label``.
        limit: Use only the first so many training images; ``None`` for all.
    """

    folder: Path | None = None
    limit: int | None = None

    def load(self) -> DataSet:
        """Decode all images.

        Returns:
            The data set ``cifar10``, or ``cifar10-jpeg`` where the stored images are JPEG.

        Raises:
            DataError: If the folder, a file, a column or an image cannot be read.
        """
        if self.folder is None:
            raise DataError(
                "CIFAR-10 needs a folder in the layout of the hub's uoft-cs/cifar10: give "
                "--data FOLDER (it holds data/train-*.parquet and data/test-*.parquet)."
            )
        train, names, coding = _read_parquet(self.folder, "train", self.limit)
        test, test_names, _ = _read_parquet(self.folder, "test", None)
        if names != test_names:
            raise DataError(f"{self.folder}: train and test name their classes differently.")
        name = "cifar10-jpeg" if coding == "JPEG" else "cifar10"
        return DataSet(name=name, train=train, test=test, class_names=names)


DataSource = Digits | Cifar10


def _read_parquet(folder: Path, part: str, limit: int | None) -> tuple[Split, tuple[str, ...], str]:
    import datasets
    from PIL import Image

    files = sorted((folder / "data").glob(f"{part}-*.parquet"))
    if not files:
        raise DataError(
            f"{folder} holds no data/{part}-*.parquet; give the folder of a copy of "
            "uoft-cs/cifar10 (the one that holds the folder 'data')."
        )
    rows, features = [], None
    for file in files:
        try:
            rows += _parquet_rows(file)
            features = datasets.Features.from_arrow_schema(_parquet_schema(file))
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"{file} cannot be read as parquet ({error}); copy or download it again."
            ) from error
    rows = rows[:limit]
    images, labels, coding = [], [], ""
    if not rows:
        raise DataError(f"{folder} holds no image of {part}.")
    for number, row in enumerate(rows):
        if row["label"] is None:
            raise DataError(f"{folder}: image {number} of {part} has no label.")
        try:
            image = Image.open(io.BytesIO(row["img"]["bytes"]))
            coding = coding or str(image.format)
            images.append(numpy.asarray(image.convert("RGB")))
        except Exception as error:
            raise DataError(f"{folder}: image {number} of {part} is broken ({error}).") from error
        labels.append(int(row["label"]))
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise DataError(f"{folder}: images of {part} differ in size: {sorted(shapes)[:3]}.")
    label_feature: Any = features["label"] if features is not None else None
    names = tuple(getattr(label_feature, "names", None) or map(str, range(max(labels) + 1)))
    pixels = torch.from_numpy(numpy.stack(images)).permute(0, 3, 1, 2).contiguous()
    split = Split(images=pixels, labels=torch.tensor(labels), classes=len(names))
    return split, names, coding


def _parquet_schema(file: Path) -> Any:
    from pyarrow import parquet

    return parquet.read_schema(file)


def _parquet_rows(file: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    columns = set(parquet.read_schema(file).names)
    missing = {"img", "label"} - columns
    if missing:
        raise DataError(
            f"{file} lacks the column {' and '.join(sorted(missing))}; it has {sorted(columns)}."
        )
    return parquet.read_table(file, columns=["img", "label"]).to_pylist()
