"""Labelled images that a program already holds: tensors, arrays, datasets and loaders."""

from collections.abc import Iterable
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from equipoise.data.dataset import DataError, Split

_FORMS = (
    "(images, labels), a torch Dataset or DataLoader of such pairs, a datasets.Dataset, or a Split"
)


def as_split(
    data: Any,
    *,
    labels: Any = None,
    value_range: tuple[float, float] | None = None,
    classes: int | None = None,
) -> Split:
    """Make a ``Split`` of labelled images, whatever holds them.

    Pixels are stored as uint8, as image files are; float images are rounded to the nearest of the
    256 levels.

    Args:
        data: ``(images, labels)``; images with ``labels=``; a ``torch`` ``Dataset`` or
            ``DataLoader`` of pairs; a ``datasets.Dataset`` with an image and a label column; or a
            ``Split``, which is returned as it is. Images are ``(n, channel, height, width)``,
            ``(n, height, width, channel)`` or ``(n, height, width)``, uint8 or float.
        labels: Class indices ``(n,)``.
        value_range: Lowest and highest value of float images, such as ``(-1, 1)``; by default
            ``(0, 1)``.
        classes: Number of classes; by default the largest label plus 1.

    Raises:
        DataError: If the data have no known form, pixels are outside their range, or labels are no
            class indices.

    Example:
        >>> images, labels = numpy.zeros((4, 8, 8, 3), numpy.uint8), [0, 1, 1, 0]
        >>> split = as_split((images, labels))
        >>> tuple(split.images.shape), split.classes
        ((4, 3, 8, 8), 2)
        >>> as_split(torch.full((1, 3, 8, 8), 2.0), labels=[0])
        Traceback (most recent call last):
        ...
        equipoise.data.dataset.DataError: float images must have values in 0 to 1, got 2 to 2; ...
    """
    if isinstance(data, Split):
        return data
    if labels is None:
        data, labels = _pairs(data)
    indices = _labels(labels)
    pixels = _pixels(_stacked(data), value_range)
    return Split(
        images=pixels,
        labels=indices,
        classes=int(indices.max()) + 1 if classes is None and len(indices) else classes or 1,
    )


def _pairs(data: Any) -> tuple[Any, Any]:
    """Images and labels of whatever holds both."""
    if hasattr(data, "column_names") and hasattr(data, "features"):
        return _columns(data)
    if isinstance(data, DataLoader):
        batches = [_pair(batch, "a batch of the DataLoader") for batch in data]
        if not batches:
            raise DataError("the DataLoader must yield at least one batch, got none.")
        images, labels = zip(*batches, strict=True)
        return torch.cat([_stacked(part) for part in images]), torch.cat(
            [_labels(part) for part in labels]
        )
    if isinstance(data, Dataset):
        count = len(data)  # type: ignore[arg-type]
        items = [_pair(data[index], "an item of the Dataset") for index in range(count)]
        if not items:
            raise DataError("the Dataset must have at least one item, got none.")
        images, labels = zip(*items, strict=True)
        return list(images), torch.stack([torch.as_tensor(label) for label in labels])
    return _pair(data, "the data")


def _pair(item: Any, what: str) -> tuple[Any, Any]:
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return item[0], item[1]
    raise DataError(
        f"{what} must be images and labels, got {type(item).__name__}; pass {_FORMS}, or images "
        "with labels=."
    )


def _columns(data: Any) -> tuple[Any, Any]:
    """The image and the label column of a ``datasets.Dataset``."""
    kinds = {name: type(feature).__name__ for name, feature in data.features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    images = images or [name for name in ("image", "img", "pixels") if name in kinds]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    labels = labels or [name for name in ("label", "labels", "fine_label") if name in kinds]
    if len(images) != 1 or not labels:
        raise DataError(
            "a datasets.Dataset must have one image column and a label column, got "
            f"{kinds}; rename them to image and label."
        )
    return data[images[0]][:], data[labels[0]][:]


def _stacked(images: Any) -> Tensor:
    """Images as one tensor ``(n, ...)``."""
    if isinstance(images, Tensor):
        return images.detach().cpu()
    if isinstance(images, numpy.ndarray):
        return torch.from_numpy(numpy.ascontiguousarray(images))
    if not isinstance(images, Iterable) or isinstance(images, str):
        raise DataError(f"images must be a tensor or an array, got {type(images).__name__}.")
    parts = [
        part.detach().cpu() if isinstance(part, Tensor) else torch.from_numpy(numpy.array(part))
        for part in images
    ]
    shapes = {tuple(part.shape) for part in parts}
    if len(shapes) != 1:
        listed = ", ".join(map(str, sorted(shapes)[:3])) or "none"
        raise DataError(f"all images must have one shape, got {listed}; resize them first.")
    return torch.stack(parts)


def _labels(labels: Any) -> Tensor:
    indices = torch.as_tensor(
        numpy.asarray(labels) if isinstance(labels, (list, tuple)) else labels
    )
    if indices.ndim != 1 or indices.is_floating_point() or indices.dtype == torch.bool:
        raise DataError(
            "labels must be whole numbers of shape (n,), got "
            f"{indices.dtype} of shape {tuple(indices.shape)}; for one-hot labels pass "
            "labels.argmax(1)."
        )
    return indices.detach().cpu().long()


def _pixels(images: Tensor, value_range: tuple[float, float] | None) -> Tensor:
    """Images as uint8 ``(n, channel, height, width)``."""
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4:
        raise DataError(
            "images must have the shape (n, channel, height, width) or (n, height, width, "
            f"channel), got {tuple(images.shape)}."
        )
    first, last = images.shape[1], images.shape[3]
    if first > 4 and last <= 4:
        images = images.permute(0, 3, 1, 2)
    if images.dtype == torch.uint8:
        if value_range not in (None, (0, 255)):
            raise DataError(f"uint8 images have values in 0 to 255, got value_range={value_range}.")
        return images.contiguous()
    low, high = value_range or (0.0, 1.0)
    if not low < high:
        raise DataError(f"value_range must ascend, got {value_range}.")
    least, most = float(images.min()), float(images.max())
    if not (low <= least and most <= high):
        remedy = "say which range they have with value_range=(low, high)"
        raise DataError(
            f"{'float' if images.is_floating_point() else 'integer'} images must have values in "
            f"{low:g} to {high:g}, got {least:g} to {most:g}; {remedy}. Images that are normalised "
            "by mean and deviation must be passed as they were before; put the normalisation into "
            "the network."
        )
    scaled = (images.double() - low) * (255 / (high - low))
    return scaled.round().to(torch.uint8).contiguous()
