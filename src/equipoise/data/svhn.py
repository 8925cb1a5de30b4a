"""Street View House Numbers, cropped digits."""

from dataclasses import dataclass
from pathlib import Path

import numpy
import torch

from equipoise.data import parquet
from equipoise.data.dataset import DataError, DataSet, Split
from equipoise.data.matlab import Variable, read_variables
from equipoise.data.parquet import Table

_TABLE = Table(title="SVHN", config="cropped_digits")
_NAMES = tuple(map(str, range(10)))
_MOST = 10**6  # images; the largest part has 531,131


@dataclass(frozen=True, kw_only=True)
class SVHN:
    """SVHN, cropped digits: 73,257 training and 26,032 test images of 32x32 in ten classes.

    Args:
        folder: Holds ``train_32x32.mat`` and ``test_32x32.mat`` (the file's label 10 is the digit
            0), or the hub's parquet files.
        hub: Repository on the hub that is used if there is no folder.

    Source:
        Netzer et al. 2011; http://ufldl.stanford.edu/housenumbers.
    """

    folder: Path | None = None
    hub: str = "ufldl-stanford/svhn"

    def load(self) -> DataSet:
        """Read all images.

        Returns:
            The data set ``svhn``.

        Raises:
            DataError: If a file or a variable in it is missing, or cannot be read, or the hub is
                out of reach.
        """
        if self.folder is not None and not parquet.parquet_files(self.folder, _TABLE, "train"):
            train, test = (_from_mat(self.folder / f"{p}_32x32.mat") for p in ("train", "test"))
        else:
            parts = (
                parquet.from_hub(self.hub, _TABLE)
                if self.folder is None
                else parquet.from_parquet(self.folder, _TABLE)
            )
            train, test = (parquet.decoded(part, 10)[0] for part in parts)
        return DataSet(name="svhn", train=train, test=test, class_names=_NAMES)


def _from_mat(path: Path) -> Split:
    if not path.is_file():
        raise DataError(
            f"there is no file {path}; give the folder that holds train_32x32.mat and "
            "test_32x32.mat (cropped digits), or the hub's parquet files."
        )
    try:
        found = read_variables(path)
        wrong = _wrong(found)
        if not wrong:
            images, labels = found["X"].read(), found["y"].read().ravel()
    except (DataError, OSError) as error:
        raise DataError(
            f"{path} cannot be read as a MATLAB 5 file: {error}. Copy or download it again."
        ) from error
    if wrong:
        raise DataError(f"{path}{wrong}")
    if images.dtype != numpy.uint8:
        raise DataError(f"{path}: X must be stored as bytes, got {images.dtype}.")
    if not numpy.isin(labels, numpy.arange(1, 11)).all():
        raise DataError(f"{path}: y must be in 1..10, got {labels.min()}..{labels.max()}.")
    classes = torch.from_numpy(labels.astype(numpy.int64) % 10)  # the file's 10 is the digit 0
    pixels = numpy.ascontiguousarray(images.transpose(3, 2, 0, 1))
    return Split(images=torch.from_numpy(pixels), labels=classes, classes=10)


def _wrong(found: dict[str, Variable]) -> str:
    """What is wrong with what the file announces, before any of it is unpacked."""
    missing = [name for name in ("X", "y") if name not in found]
    if missing:
        return f" lacks the variable {' and '.join(missing)}; it has {sorted(found)}."
    (shape, kind), marks = (found["X"].shape, found["X"].kind), found["y"].shape
    if kind != "uint8" or len(shape) != 4 or shape[:3] != (32, 32, 3) or shape[3] > _MOST:
        return f": X must be uint8 of shape (32, 32, 3, n), got {kind} of {shape}."
    if marks not in ((shape[3], 1), (1, shape[3])):
        return f": y must be of shape ({shape[3]}, 1), got {marks}."
    return ""
