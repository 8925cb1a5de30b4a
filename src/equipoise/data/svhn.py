"""Street View House Numbers, cropped digits."""

from dataclasses import dataclass
from pathlib import Path

import numpy
import torch

from equipoise.data import encoded
from equipoise.data.encoded import Table
from equipoise.data.split import DataError, DataSet, Split

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
        if self.folder is not None and not encoded.parquet_files(self.folder, _TABLE, "train"):
            train, test = (_from_mat(self.folder / f"{p}_32x32.mat") for p in ("train", "test"))
        else:
            parts = (
                encoded.from_hub(self.hub, _TABLE)
                if self.folder is None
                else encoded.from_parquet(self.folder, _TABLE)
            )
            train, test = (encoded.decoded(part, 10)[0] for part in parts)
        return DataSet(name="svhn", train=train, test=test, class_names=_NAMES)


def _from_mat(path: Path) -> Split:
    from scipy import io

    if not path.is_file():
        raise DataError(
            f"there is no file {path}; give the folder that holds train_32x32.mat and "
            "test_32x32.mat (cropped digits), or the hub's parquet files."
        )
    try:
        found = {name: (shape, kind) for name, shape, kind in io.whosmat(path)}
        _check(path, found)
        content = io.loadmat(path, variable_names=["X", "y"])
    except DataError:
        raise
    except Exception as error:  # scipy's reader raises whatever damaged content leads it to
        raise DataError(
            f"{path} cannot be read as a MATLAB 5 file ({error}); copy or download it again."
        ) from error
    labels = content["y"].ravel().astype(numpy.int64)
    if labels.min() < 1 or labels.max() > 10:
        raise DataError(f"{path}: y must be in 1..10, got {labels.min()}..{labels.max()}.")
    images = numpy.ascontiguousarray(content["X"].transpose(3, 2, 0, 1))
    labels[labels == 10] = 0
    return Split(images=torch.from_numpy(images), labels=torch.from_numpy(labels), classes=10)


def _check(path: Path, found: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """What the file announces, before any of it is read into memory."""
    missing = [name for name in ("X", "y") if name not in found]
    if missing:
        raise DataError(
            f"{path} lacks the variable {' and '.join(missing)}; it has {sorted(found)}."
        )
    (shape, kind), (marks, _) = found["X"], found["y"]
    if kind != "uint8" or len(shape) != 4 or shape[:3] != (32, 32, 3) or shape[3] > _MOST:
        raise DataError(f"{path}: X must be uint8 of shape (32, 32, 3, n), got {kind} of {shape}.")
    if marks not in ((shape[3], 1), (1, shape[3])):
        raise DataError(f"{path}: y must be of shape ({shape[3]}, 1), got {marks}.")
