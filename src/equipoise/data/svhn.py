"""Street View House Numbers (SVHN), cropped digits."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch

from equipoise.data.archives import check_published
from equipoise.data.dataset import DataError, DataSet, Split
from equipoise.data.parquet import Table, decode_all, read_table

_TABLE = Table(title="SVHN", config="cropped_digits")
_NAMES = tuple(map(str, range(10)))
_URL = "http://ufldl.stanford.edu/housenumbers"


@dataclass(frozen=True, kw_only=True)
class SVHN:
    """SVHN, cropped digits: 73,257 training and 26,032 test images of 32x32 in ten classes.

    Args:
        folder: Folder with the original ``train_32x32.mat`` and ``test_32x32.mat``, or with the
            hub's parquet files.
        hub: Repository on the hub that is used if there is no folder.

    Source:
        Netzer et al. 2011; http://ufldl.stanford.edu/housenumbers.

    Example:
        >>> from equipoise.data import SVHN
        >>> data = SVHN(folder=Path("data/svhn")).load()  # doctest: +SKIP
    """

    folder: Path | None = None
    hub: str = "ufldl-stanford/svhn"

    def load(self) -> DataSet:
        """Read all images.

        Returns:
            The data set ``svhn``.

        Raises:
            DataError: If a file is missing, cannot be read or is not the published one, or the hub
                cannot be reached.
        """
        encoded = read_table(self.folder, self.hub, _TABLE)
        if encoded is not None:
            train, test = (decode_all(split, 10)[0] for split in encoded)
        else:
            assert self.folder is not None  # the hub always has parquet files
            train, test = (_from_mat(self.folder / f"{p}_32x32.mat") for p in ("train", "test"))
        return DataSet(name="svhn", train=train, test=test, class_names=_NAMES)


def _from_mat(path: Path) -> Split:
    from scipy.io import loadmat

    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}); give the folder that holds "
            "train_32x32.mat and test_32x32.mat (cropped digits), or the hub's parquet files."
        ) from error
    # SciPy's reader can crash the process on a damaged file, so it gets the published ones only.
    check_published(
        path,
        hashlib.md5(content, usedforsecurity=False).hexdigest(),
        f"Download it again from {_URL}, or write your own arrays to an .npz (--dataset npz).",
    )
    variables = loadmat(io.BytesIO(content), variable_names=["X", "y"])
    images = numpy.ascontiguousarray(variables["X"].transpose(3, 2, 0, 1))
    labels = variables["y"].ravel().astype(numpy.int64) % 10  # the file's 10 is the digit 0
    return Split(images=torch.from_numpy(images), labels=torch.from_numpy(labels), classes=10)
