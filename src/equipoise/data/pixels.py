"""Convert arrays of images and labels to the form of a ``Split``."""

from typing import Any

import numpy
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from equipoise.data.dataset import DataError

CHANNELS = (1, 3, 4)
"""Sizes of an axis of a NumPy array that is taken for the channels."""
ValueRange = tuple[float, float]
"""Pixel values of black and of white."""


def to_uint8(
    images: Any,
    value_range: ValueRange | None = None,
    *,
    name: str = "images",
    remedy: str = "pass value_range={}",
) -> UInt8[Tensor, "n channel height width"]:
    """Convert a batch of images to uint8 with channels first.

    Args:
        images: A tensor ``(n, channel, height, width)``, or a NumPy array that may also have its
            channels last; grey images may lack that axis. uint8, or floats, which are rounded to
            8 bits.
        value_range: Pixel values of black and of white, if the images are floats. Floats in a
            tensor are in [0, 1] by default, as torchvision makes them.
        name: Name of the images in messages.
        remedy: How to state the range, for messages.

    Returns:
        The images.

    Raises:
        DataError: If type, shape or values do not fit.

    Example:
        >>> to_uint8(numpy.full((2, 8, 8, 3), 0.5), (0, 1)).shape
        torch.Size([2, 3, 8, 8])
    """
    is_tensor = isinstance(images, Tensor)
    array = images.detach().cpu() if is_tensor else torch.from_numpy(_plain(images, name))
    if array.dtype != torch.uint8:
        if not array.is_floating_point():
            raise DataError(
                f"{name} must be uint8 or floats, got {array.dtype}; if the values are 0 to 255, "
                "convert them with images.astype('uint8')."
            )
        default = (0.0, 1.0) if is_tensor else None
        array = _rescaled(array, value_range or default, name, remedy)
    elif value_range not in (None, (0, 255)):
        raise DataError(f"{name} are uint8, which need no range, got {value_range}; leave it out.")
    return _channels_first(array, is_tensor, name).contiguous()


def to_labels(labels: Any, count: int, *, name: str = "labels") -> Int[Tensor, " n"]:
    """Convert class indices to int64.

    Args:
        labels: A list, array or tensor of whole numbers, of shape ``(n,)`` or ``(n, 1)``.
        count: Number of images.
        name: Name of the labels in messages.

    Raises:
        DataError: If they are not whole numbers, one per image, or there are none.

    Example:
        >>> to_labels([[2], [0]], 2)
        tensor([2, 0])
    """
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else numpy.asarray(labels)
    if values.shape[1:] == (1,):  # as in MedMNIST
        values = values[:, 0]
    if values.dtype.kind not in "iub" or values.shape != (count,) or not count:
        one_hot = values.ndim == 2 and len(values) == count
        remedy = "; convert one-hot labels with labels.argmax(1)" if one_hot else ""
        raise DataError(
            f"{name} must be whole numbers, one for each of the {count} images and at least one, "
            f"got {values.dtype} of shape {values.shape}{remedy}."
        )
    return torch.from_numpy(values.astype(numpy.int64))


def number_classes(
    train: Int[Tensor, " n"], test: Int[Tensor, " m"], where: str
) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"], tuple[str, ...], tuple[str, ...]]:
    """Number the classes from 0 without gaps, so that every class has training images.

    Args:
        train: Labels of the training images, any whole numbers.
        test: Labels of the test images.
        where: Name of the data in messages.

    Returns:
        Both as class indices, the labels as names of the classes, and a note if they changed.

    Raises:
        DataError: If a test image has a label that no training image has.

    Example:
        >>> number_classes(torch.tensor([1, 3, 1]), torch.tensor([3]), "mine")[2:]
        (('1', '3'), ('the labels 1 to 3 were numbered as classes 0 to 1',))
    """
    values, indices = train.unique(return_inverse=True)
    names = tuple(map(str, values.tolist()))
    if values.tolist() == list(range(len(values))):
        return train, test, names, ()
    unknown = test[~torch.isin(test, values)]
    if len(unknown):
        raise DataError(
            f"{where}: each label of a test image must have training images, got "
            f"{int(unknown[0])}, which none has; correct the labels."
        )
    note = f"the labels {names[0]} to {names[-1]} were numbered as classes 0 to {len(names) - 1}"
    return indices, torch.searchsorted(values, test), names, (note,)


def _plain(images: Any, name: str) -> Any:
    """A NumPy array that PyTorch can read."""
    array = numpy.asarray(images)
    if array.dtype.kind not in "uif":
        raise DataError(
            f"{name} must be uint8 or floats in one array, got {array.dtype} of shape "
            f"{array.shape}; images in an array have the same size."
        )
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return numpy.ascontiguousarray(native) if native.flags.writeable else native.copy()


def _rescaled(array: Tensor, value_range: ValueRange | None, name: str, remedy: str) -> Tensor:
    if array.numel() == 0:
        return array.to(torch.uint8)
    least, most = array.min().item(), array.max().item()
    got = f"got {array.dtype} from {least:g} to {most:g}"
    if value_range is None:
        remedy = remedy.format(_likely_range(least, most))
        raise DataError(
            f"{name} are floats, whose black and white must be stated, {got}; {remedy}."
        )
    black, white = value_range
    if not black < white:
        raise DataError(f"value_range must be black and white, ascending, got {value_range}.")
    slack = 1e-3 * (white - black)
    if not (black - slack <= least and most <= white + slack):  # also if they are not numbers
        remedy = remedy.format(_likely_range(least, most))
        raise DataError(
            f"{name} must be in [{black:g}, {white:g}], {got}; {remedy}. If mean and deviation "
            "were normalised, undo that: it is a layer of the network."
        )
    scale = 255.0 / (white - black)
    return array.float().sub(black).mul_(scale).round_().clamp_(0, 255).to(torch.uint8)


def _likely_range(least: float, most: float) -> str:
    """The usual range that fits the values, as Python writes it."""
    for black, white in ((0, 1), (-1, 1), (0, 255)):
        if black <= least and most <= white:
            return f"({black}, {white})"
    return "(black, white)"


def _channels_first(array: Tensor, is_tensor: bool, name: str) -> Tensor:
    shape = tuple(array.shape)
    if array.ndim == 3:
        return array[:, None]
    if array.ndim != 4:
        raise DataError(f"{name} must be one array (n, channel, height, width), got {shape}.")
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if is_tensor:
        if last and not first:
            raise DataError(
                f"{name} must be a tensor (n, channel, height, width), got {shape}, which looks "
                "like channels last; pass images.permute(0, 3, 1, 2)."
            )
        return array
    if first == last:
        problem = "could have them in either place" if first else "has neither"
        raise DataError(
            f"{name} must have 1, 3 or 4 channels, after the images or last: (n, channel, height, "
            f"width) or (n, height, width, channel); got {shape}, which {problem}."
        )
    return array if first else array.permute(0, 3, 1, 2)
