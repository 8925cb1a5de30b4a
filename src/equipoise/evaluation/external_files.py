"""Files with adversarial images that others made: their arrays, and the checks that they pass."""

import hashlib
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from jaxtyping import Int
from torch import Tensor

from equipoise.attacks.threat import Threat
from equipoise.data import DataError, Split
from equipoise.data.npz import read_arrays
from equipoise.records.epsilon import format_epsilon

TOLERANCE = 1e-6
"""Distance beyond epsilon that still counts as inside: rounding of float32."""

NAMES = ("image", "images", "x_adv", "adversarial", "arr_0")
"""Names under which an ``.npz`` file may hold its images."""


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); --images-from takes .npz and .npy files."
        ) from error


@dataclass(frozen=True, kw_only=True)
class ExternalFile:
    """The arrays of a file with adversarial images; all but the images may be missing.

    Args:
        path: The file.
        digest: Its SHA-256.
        images: The images, in either layout.
        labels: Their labels.
        rows: Row of each in its part of the data set.
        epsilon: Strength at which they were made.
        norm: Norm of that strength.
    """

    path: Path
    digest: str
    images: Any
    labels: Any = None
    rows: Any = None
    epsilon: float | None = None
    norm: str | None = None

    @classmethod
    def read(cls, path: Path) -> "ExternalFile":
        """Read an ``.npz`` or ``.npy`` file, without unpickling.

        Raises:
            DataError: If it cannot be read, or does not name its images.
        """
        digest = file_sha256(path)
        if not zipfile.is_zipfile(path):
            try:
                array = numpy.load(path, mmap_mode="r", allow_pickle=False)
            except (ValueError, OSError, EOFError) as error:
                raise DataError(
                    f"{path} cannot be read as .npz or .npy ({error}); write the images with "
                    "numpy.save, as uint8 or as float32 in [0, 1]."
                ) from error
            return cls(path=path, digest=digest, images=array)
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
        found = [name for name in NAMES if name in names] or (names if len(names) == 1 else [])
        if not found:
            raise DataError(
                f"{path} must hold its images in an array named {' or '.join(NAMES)}, got the "
                f"arrays {', '.join(names)}; rename it, or save the images alone."
            )
        arrays = read_arrays(path, found[:1], ("label", "labels", "row", "epsilon", "norm"))
        epsilon, norm = arrays.get("epsilon"), arrays.get("norm")
        if epsilon is not None and (epsilon.shape != () or not 0 <= float(epsilon) < math.inf):
            raise DataError(
                f"{path}: epsilon must be one number of 0 or more, got {epsilon!r}; save each "
                "strength in a file of its own."
            )
        return cls(
            path=path,
            digest=digest,
            images=arrays[found[0]],
            labels=arrays.get("label", arrays.get("labels")),
            rows=arrays.get("row"),
            epsilon=None if epsilon is None else float(epsilon),
            norm=None if norm is None else str(norm),
        )


def strength_of(file: ExternalFile, norm: str, epsilons: Sequence[float]) -> float:
    """Return the strength that a file's images are checked against.

    Args:
        file: The file.
        norm: Norm of the evaluation.
        epsilons: Its strengths.

    Raises:
        DataError: If the file is of another norm, or of a larger strength.
    """
    largest = max(epsilons, default=0.0)
    if file.norm not in (None, norm):
        raise DataError(
            f"{file.path} holds images of the norm {file.norm}, but the evaluation's is {norm}; "
            f"add --norm {file.norm}."
        )
    if file.epsilon is not None and file.epsilon > largest + TOLERANCE:
        raise DataError(
            f"{file.path} holds images at {format_epsilon(file.epsilon)}, but the largest strength "
            f"of the evaluation is {format_epsilon(largest)}; add it to --epsilons."
        )
    return float(largest if file.epsilon is None else file.epsilon)


def aligned_images(
    file: ExternalFile, split: Split, rows: Tensor, part_size: int
) -> tuple[Tensor, Tensor]:
    """Find the file's image for each image of an evaluation.

    Args:
        file: The file.
        split: The images under evaluation.
        rows: Row of each of them in its part of the data set.
        part_size: Number of images of that part.

    Returns:
        Images ``(n, channel, height, width)``, clean where the file has none; and whether it has.

    Raises:
        DataError: If shape, range, count, rows or labels do not fit.
    """
    array, count = _channels_first(file, split), len(file.images)
    if file.rows is not None:
        in_part = _whole_numbers(file, "row", file.rows, count, part_size)
        if len(in_part.unique()) != count:
            raise DataError(f"{file.path}: row names an image twice; save each image once.")
    elif count == part_size:
        in_part = torch.arange(part_size)
    elif count == len(rows):
        in_part = rows
    else:
        raise DataError(
            f"{file.path} must hold one image for each of the {len(rows)} that are evaluated, in "
            f"the order of the data, got {count}; evaluate as many with --images {count}, or say "
            "which they are in an array named row."
        )
    position = torch.full((part_size,), -1)
    position[in_part] = torch.arange(count)
    position = position[rows]
    has_image = position >= 0
    if not bool(has_image.any()):
        raise DataError(
            f"{file.path} holds none of the {len(rows)} images that are evaluated; raise --images."
        )
    _check_labels(file, split, position, has_image)
    images = clean_images(split)
    images[has_image] = _floats(array[position[has_image].numpy()])
    return images, has_image


def _channels_first(file: ExternalFile, split: Split) -> Any:
    """Return the array as ``(n, channel, height, width)``, after checking type and range."""
    array, path = file.images, file.path
    channels, height, width = split.images.shape[1:]
    if array.shape[1:] == (height, width, channels):
        array = array.transpose(0, 3, 1, 2)
    elif array.shape[1:] == (height, width) and channels == 1:
        array = array[:, None]
    elif array.shape[1:] != (channels, height, width):
        raise DataError(
            f"{path} must hold images of shape (n, {height}, {width}, {channels}) or (n, "
            f"{channels}, {height}, {width}), as the data, got {array.shape}."
        )
    if array.dtype not in (numpy.uint8, numpy.float32, numpy.float64):
        raise DataError(
            f"{path} must hold uint8 images, or float32 or float64 ones in [0, 1], got "
            f"{array.dtype}; convert them with .astype('float32')."
        )
    if array.dtype != numpy.uint8 and array.size:
        low, high = float(array.min()), float(array.max())
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # NaN is outside, too
            remedy = "divide them by 255" if 1 < high <= 255 and low >= 0 else "undo normalisation"
            raise DataError(
                f"{path} must hold float images in [0, 1], got {low:g} to {high:g}; {remedy}, or "
                "save them as uint8."
            )
    return array


def _floats(array: Any) -> Tensor:
    pixels = torch.from_numpy(numpy.ascontiguousarray(array))
    if pixels.dtype == torch.uint8:
        return pixels.float().div_(255.0)
    return pixels.float().clamp_(0.0, 1.0)


def _whole_numbers(
    file: ExternalFile, name: str, values: Any, count: int, below: int
) -> Int[Tensor, " n"]:
    valid = values.dtype.kind in "iu" and values.shape == (count,)
    if not valid or (count and not 0 <= int(values.min()) <= int(values.max()) < below):
        raise DataError(
            f"{file.path}: {name} must be one whole number below {below} for each of the {count} "
            f"images, got {values.dtype} of shape {values.shape}"
            + (f" in {values.min()}..{values.max()}." if valid else ".")
        )
    return torch.from_numpy(values.astype(numpy.int64))


def _check_labels(file: ExternalFile, split: Split, position: Tensor, has_image: Tensor) -> None:
    if file.labels is None:
        return
    count = len(file.images)
    theirs = _whole_numbers(file, "label", file.labels, count, split.classes)[position[has_image]]
    ours = split.labels.cpu()[has_image]
    wrong = (theirs != ours).nonzero().flatten()
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{file.path}: {len(wrong)} of {len(ours)} labels differ from those of the data, the "
            f"first of them {int(theirs[first])} for {int(ours[first])}; the images are of other "
            "data or in another order."
        )


def clean_images(split: Split) -> Tensor:
    """Return all images of a split as float32 in [0, 1], on the CPU."""
    images, _ = split.batch(slice(None))
    return images.cpu()


def checked_distances(
    file: ExternalFile,
    images: Tensor,
    clean: Tensor,
    has_image: Tensor,
    threat: Threat,
    allow_rounding: bool,
) -> tuple[Tensor, Tensor]:
    """Measure the distance of each image from its clean image, and refuse any that is too far.

    Args:
        file: The file, for messages.
        images: Its images.
        clean: The clean images.
        has_image: Which of them are from the file.
        threat: The threat that they must be inside of.
        allow_rounding: Project 8-bit images that are outside by up to half a level onto the threat.

    Returns:
        The images, all inside the threat, and their distances.

    Raises:
        DataError: If an image is outside; the message has their number and the largest distance.
    """
    norm, epsilon = type(threat).__name__, float(threat.epsilon)
    distance = _distances(images, clean, norm)
    # Half a grey level in every pixel, as an L2 length.
    slack = 0.5 / 255 * (1.0 if norm == "Linf" else math.sqrt(images[0].numel()))
    is_rounding = file.images.dtype == numpy.uint8 and distance.max() <= epsilon + slack + TOLERANCE
    outside = has_image & (distance > epsilon + TOLERANCE)
    if bool(outside.any()):
        if not (is_rounding and allow_rounding):
            remedy = (
                "they are 8-bit images, and rounding explains it: add --allow-rounding to move "
                "them back before they are scored"
                if is_rounding
                else "project them onto the threat, evaluate at their own strength with "
                "--epsilons, or check that they are in the order of the data"
            )
            raise DataError(
                f"{file.path}: {int(outside.sum())} of {int(has_image.sum())} images are outside "
                f"the {norm} threat of {format_epsilon(epsilon)}, the furthest at "
                f"{float(distance.max()):.6g}; {remedy}."
            )
        images = torch.where(outside[:, None, None, None], threat.project(images, clean), images)
        distance = _distances(images, clean, norm)
    return images, distance.float()


def _distances(images: Tensor, clean: Tensor, norm: str) -> Tensor:
    """Return the distance of each image from its clean image, in float64."""
    order = math.inf if norm == "Linf" else 2
    distances = [
        (image.double() - original.double()).flatten(1).norm(order, dim=1)
        for image, original in zip(images.split(1024), clean.split(1024), strict=True)
    ]
    return torch.cat(distances)
