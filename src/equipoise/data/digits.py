"""scikit-learn's digits: real data that needs no download."""

from dataclasses import dataclass

import numpy
import torch

from equipoise.data.dataset import DataSet, Split


@dataclass(frozen=True, kw_only=True)
class Digits:
    """scikit-learn's 1,797 handwritten digits, 8x8, one channel, ten classes; needs no download.

    450 images, drawn once and for all by a fixed seed, are the test part.

    Source:
        UCI "Optical Recognition of Handwritten Digits", test part, as ``load_digits`` ships it.
    """

    def load(self) -> DataSet:
        """Read the digits.

        Returns:
            The data set ``digits``: 1,347 training and 450 test images.
        """
        from sklearn.datasets import load_digits

        digits = load_digits()
        levels = numpy.rint(digits.images * (255 / 16)).astype(numpy.uint8)  # levels 0 to 16
        whole = Split(
            images=torch.from_numpy(levels)[:, None],
            labels=torch.from_numpy(digits.target.astype(numpy.int64)),
            classes=10,
        )
        train, test = whole.hold_out(450, seed=0)
        return DataSet(
            name="digits", train=train, test=test, class_names=tuple(str(i) for i in range(10))
        )
