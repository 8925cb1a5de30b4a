"""What every reader of data guarantees, on small files."""

import numpy
import pytest
import tiny
from writers import write_images

from equipoise.contracts import READER_CHECKS, TwoLoads
from equipoise.contracts.base import title
from equipoise.data import Digits, ImageFolder, NpzFile


def digits(tmp_path):
    return Digits()


def image_folder(tmp_path):
    data = tiny.digits()
    images = {}
    for part, split in (("train", data.train), ("test", data.test)):
        for row, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            images[f"{part}/{int(label)}/{row:04d}"] = image.numpy()
    return ImageFolder(folder=write_images(tmp_path, images), grey=True)


def npz_file(tmp_path):
    data = tiny.digits()
    arrays = {
        "train_images": data.train.images.permute(0, 2, 3, 1).numpy(),
        "train_labels": data.train.labels.numpy(),
        "test_images": data.test.images.permute(0, 2, 3, 1).numpy(),
        "test_labels": data.test.labels.numpy(),
    }
    numpy.savez(tmp_path / "digits.npz", **arrays)
    return NpzFile(path=tmp_path / "digits.npz")


@pytest.fixture(scope="module", params=[digits, image_folder, npz_file], ids=lambda f: f.__name__)
def loads(request, tmp_path_factory):
    source = request.param(tmp_path_factory.mktemp("data"))
    return TwoLoads(source.load(), source.load())


@pytest.mark.parametrize("check", READER_CHECKS, ids=title)
def test_every_check_of_a_reader_holds(check, loads):
    check(loads)
