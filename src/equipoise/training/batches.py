"""Batches of a stage: training images, mixed with extra images from a file if there are any."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from jaxtyping import Int
from torch import Tensor

from equipoise.data import DataError, Split
from equipoise.data.npz import read_arrays
from equipoise.data.pixels import to_labels
from equipoise.distributed.shared_generator import shard
from equipoise.training.config import TrainingConfig
from equipoise.types import Images, Labels


@dataclass(frozen=True, kw_only=True)
class ExtraImages:
    """Extra training images from an ``.npz`` file, such as a generated data set.

    Create it with ``read``, which checks the file. Images that are stored uncompressed are memory
    mapped, so that the file may be larger than memory.

    Args:
        images: uint8 array ``(n, height, width, channel)``.
        labels: Class indices ``(n,)``.

    Source:
        Gowal et al. 2021 (2110.09468), Rebuffi et al. 2021 (2103.01946) and Wang et al. 2023
        (2302.04638) publish their images in this layout: arrays ``image`` and ``label``.

    Example:
        >>> import tempfile, numpy, torch
        >>> from equipoise.data import Split
        >>> pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> train = Split(images=pixels, labels=torch.tensor([0, 1]), classes=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "extra.npz"
        ...     numpy.savez(path, image=numpy.zeros((5, 8, 8, 3), numpy.uint8), label=[0] * 5)
        ...     len(ExtraImages.read(path, like=train))
        5
    """

    images: Any
    labels: Int[Tensor, " n"]

    @classmethod
    def read(cls, path: Path, like: Split) -> "ExtraImages":
        """Open and check a file.

        Args:
            path: The ``.npz`` file.
            like: Training images; the extra images must have their shape, type and classes.

        Raises:
            DataError: If the file is missing, is not an ``.npz`` file of plain arrays, or does not
                match the training images.
        """
        if not path.is_file():
            raise DataError(
                f"{path} does not exist; set loop.extra to an .npz file, or leave it out."
            )
        arrays = read_arrays(path, ("image", "label"))
        images = arrays["image"]
        _, channels, height, width = like.images.shape
        if images.dtype != numpy.uint8 or images.shape[1:] != (height, width, channels):
            raise DataError(
                f"{path}: image must be uint8 of shape (n, {height}, {width}, {channels}), like "
                f"the training images, got {images.dtype} of shape {images.shape}."
            )
        labels = to_labels(arrays["label"], len(images), name=f"{path}: label")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= like.classes:
            raise DataError(
                f"{path}: labels must be in [0, {like.classes}), like those of the training "
                f"images, got {low}..{high}."
            )
        return cls(images=images, labels=labels)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Int[Tensor, " rows"]) -> tuple[Images, Labels]:
        """Return the chosen rows as float32 images in [0, 1], and their labels, on the CPU."""
        rows = rows.cpu()
        pixels = torch.from_numpy(self.images[rows.numpy()])
        return pixels.permute(0, 3, 1, 2).float().div_(255.0), self.labels[rows]


class TrainingBatches:
    """Augmented batches of a stage: training images in the order of the epoch, and extra images.

    An epoch has as many steps with extra images as without, so it contains only a part of the
    training images, a different one each time. Extra images are drawn with replacement, so the
    state of the generator is all that a checkpoint needs.

    Args:
        train: Training images, on the training device.
        config: Batch size, augmentation and extra images.

    Attributes:
        per_epoch: Number of batches in an epoch.
        size: Images in a batch.

    Raises:
        DataError: If the extra images cannot be used.

    Source:
        Wang et al. 2023 (2302.04638), ``semisup.py`` of their code, also draw extra images with
        replacement and shuffle the rows of a batch.
    """

    def __init__(self, train: Split, config: TrainingConfig) -> None:
        self.train, self.config = train, config
        self.extra = None if config.extra is None else ExtraImages.read(config.extra, train)
        self.size = min(config.batch_size, len(train))
        self.per_epoch = len(train) // self.size  # the incomplete last batch is dropped
        self._extra_count = 0
        if self.extra is not None:
            if self.size < 2:
                raise DataError("batches of 1 have no room for extra images; raise batch_size.")
            self._extra_count = max(1, int(self.size * config.extra_share))

    def order(self, generator: torch.Generator) -> Int[Tensor, " n"]:
        """Draw an order of all training images."""
        return torch.randperm(len(self.train), generator=generator, device=generator.device)

    def batch(
        self, order: Int[Tensor, " n"], number: int, generator: torch.Generator
    ) -> tuple[Images, Labels]:
        """Make one augmented batch, and return this process's rows of it.

        Args:
            order: Order of the training images in this epoch.
            number: Index of the batch in the epoch, from 0.
            generator: The only source of randomness. All processes make the whole batch, so that
                their generators stay in the same state.

        Returns:
            Images in [0, 1] and labels.
        """
        count = self.size - self._extra_count
        images, labels = self.train.batch(order[number * count : (number + 1) * count])
        if self.extra is not None:
            device = generator.device
            rows = torch.randint(
                len(self.extra), (self._extra_count,), generator=generator, device=device
            )
            extra_images, extra_labels = self.extra.batch(rows)
            mixed = torch.randperm(self.size, generator=generator, device=device)
            images = torch.cat([images, extra_images.to(images.device)])[mixed.to(images.device)]
            labels = torch.cat([labels, extra_labels.to(labels)])[mixed.to(labels.device)]
        images = self.config.augmentation(images, generator)
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        rows = torch.arange(len(labels), device=labels.device)
        local = shard(rows, generator)
        return (images, labels) if local is rows else (images[local], labels[local])
