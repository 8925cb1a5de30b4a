"""Make a ``Split`` of images and labels that are already in memory."""

from collections.abc import Iterable
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from equipoise.data.dataset import DataError, Split
from equipoise.data.decode import prepare
from equipoise.data.pixels import ValueRange, to_labels, to_uint8


def as_split(
    data: Any,
    *,
    labels: Any = None,
    value_range: ValueRange | None = None,
    classes: int | None = None,
) -> Split:
    """Convert labelled images of any common form to a ``Split``.

    A ``Dataset`` or ``DataLoader`` is read once, in its own order, so random augmentation in it is
    drawn once; the training loop has its own. Images are kept with 8 bits per channel.

    Args:
        data: One of

            - a ``Split``, which is returned as it is;
            - a tuple of images and labels, or the images alone with ``labels``;
            - a ``torch.utils.data.Dataset`` or ``DataLoader`` of pairs ``(image, label)``;
            - a ``datasets.Dataset`` of the Hugging Face library with one column of images.

            Images are tensors ``(n, channel, height, width)``, uint8 or floats in [0, 1]; NumPy
            arrays, with channels first or last; or images of Pillow. A network normalises them
            itself.
        labels: Class indices ``(n,)`` that count from 0, if ``data`` holds only the images.
        value_range: Pixel values of black and of white, such as ``(-1, 1)``; required for floats
            in NumPy arrays, by default ``(0, 1)`` for those in tensors.
        classes: Number of classes; by default the largest label plus one.

    Returns:
        The split, on the CPU.

    Raises:
        DataError: If images, labels or their shapes do not fit; the message says how to convert
            them.

    Example:
        >>> images = torch.rand(4, 3, 8, 8)
        >>> split = as_split((images, [0, 1, 1, 0]))
        >>> split.images.shape, split.images.dtype, split.classes
        (torch.Size([4, 3, 8, 8]), torch.uint8, 2)
    """
    if isinstance(data, tuple) and len(data) == 2 and labels is None:
        data, labels = data
    elif isinstance(data, Split | Dataset | DataLoader) or _is_hugging_face(data):
        if labels is not None:
            raise DataError(
                f"labels must be None for a {type(data).__name__}, which has its own; leave them "
                "out."
            )
        if isinstance(data, Split):
            return data
        data, labels = _read(data, value_range)
        value_range = None
    if labels is None or not isinstance(data, Tensor | numpy.ndarray):
        raise DataError(
            "data must be a Split, a tuple (images, labels) of tensors or arrays, a Dataset or "
            "DataLoader of PyTorch, or a datasets.Dataset, got "
            f"{type(data).__name__}{'' if labels is not None else ' without labels'}."
        )
    images = to_uint8(data, value_range)
    indices = to_labels(labels, len(images))
    return Split(
        images=images,
        labels=indices,
        classes=_number_of_classes(indices) if classes is None else classes,
    )


def _number_of_classes(labels: Tensor) -> int:
    found = labels.unique().tolist()
    if len(found) > 1 and found == list(range(1, len(found) + 1)):
        raise DataError(
            f"labels must count from 0, got 1 to {found[-1]}; pass labels - 1, or "
            f"classes={found[-1] + 1} if class 0 just has no image here."
        )
    return int(found[-1]) + 1


def _is_hugging_face(data: Any) -> bool:
    """Whether this is a class of the library ``datasets``, which is slow to import."""
    return type(data).__module__.partition(".")[0] == "datasets"


def _read(data: Any, value_range: ValueRange | None) -> tuple[Tensor, Tensor]:
    """Read all images and labels; each batch becomes uint8 at once, to save memory."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for number, (pixels, indices) in enumerate(_batches(data)):
        name = f"images (batch {number})" if isinstance(data, DataLoader) else f"image {number}"
        images.append(to_uint8(pixels, value_range, name=name))
        labels.append(to_labels(indices, len(images[-1]), name=f"labels of {name}"))
    if not images:
        raise DataError(f"{type(data).__name__} must have at least one image, got none.")
    shapes = {tuple(batch.shape[1:]) for batch in images}
    if len({shape[1:] for shape in shapes}) == 1 and {shape[0] for shape in shapes} == {1, 3}:
        images = [batch.expand(-1, 3, -1, -1) for batch in images]
    elif len(shapes) > 1:
        some = " and ".join(map(str, sorted(shapes)[:2]))
        raise DataError(
            f"images must have the same size, got (channel, height, width) {some}; resize them in "
            "the data set's transform."
        )
    return torch.cat(images), torch.cat(labels)


def _batches(data: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(data, DataLoader):
        if data.drop_last:
            raise DataError(
                "the DataLoader must not leave images out, got drop_last=True; pass its dataset."
            )
        yield from map(_pair, data)
        return
    for item in _rows(data) if _is_hugging_face(data) else _items(data):
        image, label = _pair(item)
        pixels = image if isinstance(image, Tensor | numpy.ndarray) else _of_pillow(image)
        yield pixels[None], [label]


def _items(data: Any) -> Iterable[Any]:
    """Items of a data set of PyTorch, which may lack an iterator that ends."""
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return (data[index] for index in range(len(data)))
    return iter(data)


def _pair(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        got = f"{len(item)} values" if isinstance(item, tuple | list) else type(item).__name__
        raise DataError(
            f"each item must be a pair (image, label), got {got}; wrap the data set in one whose "
            "items are pairs."
        )
    return item[0], item[1]


def _of_pillow(image: Any) -> Any:
    from PIL import Image

    if not isinstance(image, Image.Image):
        raise DataError(
            "each image must be a tensor, a NumPy array or an image of Pillow, got "
            f"{type(image).__name__}."
        )
    return prepare(image, size=None, grey=image.mode in ("L", "1"))[0]


def _rows(data: Any) -> Iterable[tuple[Any, Any]]:
    from equipoise.data.columns import find_columns

    if isinstance(data, dict):
        raise DataError(
            f"data must be one split, got {', '.join(data)}; pass data['{next(iter(data))}']."
        )
    image, label = find_columns(data.features or {}, "the data set")
    for row in data.select_columns([image, label]).with_format(None):
        yield row[image], row[label]
