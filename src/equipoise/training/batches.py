"""Extra training images from a file, mixed into every batch; the batches of an epoch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from jaxtyping import Int
from torch import Tensor

from equipoise.data import DataError, Split
from equipoise.data.npz import label_tensor, read_arrays
from equipoise.training.config import Loop
from equipoise.types import Images, Labels


@dataclass(frozen=True, kw_only=True)
class ExtraImages:
    """Images and labels of an ``.npz``, as sets of generated images come.

    Made by ``read``, which checks them. Images that the file stores uncompressed are mapped into
    memory, not read: a set may be larger than the memory is.

    Args:
        images: uint8, ``(n, height, width, channel)``.
        labels: Class indices ``(n,)``.

    Source:
        The layout of Gowal et al. 2021 (2110.09468), Rebuffi et al. 2021 (2103.01946) and Wang et
        al. 2023 (2302.04638): arrays ``image`` and ``label``.
    """

    images: Any
    labels: Int[Tensor, " n"]

    @classmethod
    def read(cls, path: Path, like: Split) -> "ExtraImages":
        """Open and check a file.

        Args:
            path: The ``.npz``.
            like: Training images, which the extra ones must be like.

        Raises:
            DataError: If the file is missing, is no ``.npz`` of plain arrays, or its arrays have
                another shape, type or number of classes than the training images.
        """
        if not path.is_file():
            raise DataError(f"there is no file {path}; set loop.extra to an .npz, or leave it out.")
        arrays = read_arrays(path, ("image", "label"))
        images = arrays["image"]
        _, channels, height, width = like.images.shape
        if images.dtype != numpy.uint8 or images.shape[1:] != (height, width, channels):
            raise DataError(
                f"{path}: image must be uint8 of shape (n, {height}, {width}, {channels}), as the "
                f"training images are, got {images.dtype} of shape {images.shape}."
            )
        labels = label_tensor(path, "label", arrays, len(images))
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= like.classes:
            raise DataError(
                f"{path}: labels must be in [0, {like.classes}), as those of the training images "
                f"are, got {low}..{high}."
            )
        return cls(images=images, labels=labels)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Int[Tensor, " rows"]) -> tuple[Images, Labels]:
        """The chosen rows as float32 images in [0, 1] and their labels, on the processor."""
        rows = rows.cpu()
        pixels = torch.from_numpy(self.images[rows.numpy()])
        return pixels.permute(0, 3, 1, 2).float().div_(255.0), self.labels[rows]


class Batches:
    """The batches of a stage: training images in the epoch's order, extra ones drawn anew.

    An epoch has as many steps with extra images as without, so it shows only a share of the
    training images, another one each time. Extra images are drawn with replacement, so a
    checkpoint needs no order of them: the generator's state says it all.

    Args:
        train: Training images, on the device that trains.
        loop: Batch size, augmentation, extra images.

    Raises:
        DataError: If the extra images cannot be used.

    Source:
        The sampler of Wang et al. 2023 (2302.04638, ``semisup.py`` of their code) draws extra
        images with replacement and shuffles the rows of a batch, too.
    """

    def __init__(self, train: Split, loop: Loop) -> None:
        self.train, self.loop = train, loop
        self.extra = None if loop.extra is None else ExtraImages.read(loop.extra, train)
        size = min(loop.batch_size, len(train))
        self.count = len(train) // size  # the incomplete last batch is dropped
        self.drawn = 0
        if self.extra is not None:
            if size < 2:
                raise DataError("batches of 1 have no room for extra images; raise batch_size.")
            self.drawn = max(1, int(size * loop.extra_share))
        self.own = size - self.drawn

    def order(self, generator: torch.Generator) -> Int[Tensor, " n"]:
        """A new order of all training images."""
        return torch.randperm(len(self.train), generator=generator, device=generator.device)

    def batch(
        self, order: Int[Tensor, " n"], number: int, generator: torch.Generator
    ) -> tuple[Images, Labels]:
        """One augmented batch.

        Args:
            order: Of the epoch.
            number: Of the batch in the epoch, from 0.
            generator: The only source of randomness.

        Returns:
            Images in [0, 1] and labels.
        """
        first = number * self.own
        images, labels = self.train.batch(order[first : first + self.own])
        if self.extra is not None:
            device = generator.device
            rows = torch.randint(len(self.extra), (self.drawn,), generator=generator, device=device)
            more, more_labels = self.extra.batch(rows)
            mixed = torch.randperm(self.own + self.drawn, generator=generator, device=device)
            images = torch.cat([images, more.to(images.device)])[mixed.to(images.device)]
            labels = torch.cat([labels, more_labels.to(labels)])[mixed.to(labels.device)]
        images = self.loop.augmentation(images, generator)
        if self.loop.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, labels
