"""scikit-learn's handwritten digits, which need no download."""

from dataclasses import dataclass

import numpy
import torch

from equipoise.data.dataset import DataSet, Split


@dataclass(frozen=True, kw_only=True)
class Digits:
    """scikit-learn's 1,797 handwritten digits, 8x8, one channel, ten classes; needs no download.

    The test split is the same 450 random images every time.

    Source:
        UCI "Optical Recognition of Handwritten Digits", test set, as in ``load_digits``.

    Example:
        >>> data = Digits().load()
        >>> len(data.train), len(data.test), data.image_shape
        (1347, 450, (1, 8, 8))
    """

    def load(self) -> DataSet:
        """Read the digits.

        Returns:
            Data set ``digits`` with 1,347 training and 450 test images.
        """
        from sklearn.datasets import load_digits

        digits = load_digits()
        levels = numpy.rint(digits.images * (255 / 16)).astype(numpy.uint8)  # levels 0 to 16
        everything = Split(
            images=torch.from_numpy(levels)[:, None],
            labels=torch.from_numpy(digits.target.astype(numpy.int64)),
            classes=10,
        )
        train, test = everything.hold_out(450, seed=0)
        return DataSet(
            name="digits", train=train, test=test, class_names=tuple(str(i) for i in range(10))
        )
