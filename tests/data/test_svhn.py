import hashlib

import datasets
import numpy
import pytest
from scipy.io import savemat
from writers import encoded, noise, write_parquet

from equipoise.data import SVHN, DataError, archives

IMAGES = noise(6)
LABELS = [10, 1, 2, 9, 10, 5]  # 10 is the digit 0
DIGITS = [0, 1, 2, 9, 0, 5]


def write_mat(folder, part, rows):
    variables = {
        "X": IMAGES[rows].transpose(2, 3, 1, 0),
        "y": numpy.array(LABELS[rows], dtype=numpy.uint8)[:, None],
    }
    path = folder / f"{part}_32x32.mat"
    savemat(path, variables, do_compression=True)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for part, rows in (("train", slice(0, 4)), ("test", slice(4, 6))):
        path = write_mat(tmp_path, part, rows)
        digest = hashlib.md5(path.read_bytes()).hexdigest()
        monkeypatch.setitem(archives.PUBLISHED, path.name, digest)
    return tmp_path


def test_mat_files_are_read_and_label_10_is_the_digit_0(folder):
    data = SVHN(folder=folder).load()
    assert (data.name, data.class_names) == ("svhn", tuple("0123456789"))
    assert numpy.array_equal(data.train.images.numpy(), IMAGES[:4])
    assert numpy.array_equal(data.test.images.numpy(), IMAGES[4:])
    assert data.train.labels.tolist() + data.test.labels.tolist() == DIGITS


@pytest.mark.parametrize("share", [0.0, 0.01, 0.9, 1.1])
def test_file_other_than_the_published_one_is_refused_unread(folder, share):
    path = folder / "test_32x32.mat"
    content = path.read_bytes() + bytes(1000)
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        DataError, match=r"test_32x32.mat has the MD5 sum \w{32}, but .*an .npz \(--dataset npz\)"
    ):
        SVHN(folder=folder).load()


def test_checksums_are_those_of_the_original_files(tmp_path):
    write_mat(tmp_path, "train", slice(0, 4))
    with pytest.raises(DataError, match="published one is e26dedcc434d2e4c54c9b2d4a06d8373"):
        SVHN(folder=tmp_path).load()


def test_missing_file_is_refused(folder):
    (folder / "test_32x32.mat").unlink()
    with pytest.raises(DataError, match=r"test_32x32.mat cannot be read .*; give the folder"):
        SVHN(folder=folder).load()


def test_parquet_files_and_the_hub_are_read(tmp_path, monkeypatch):
    for part, rows in (("train", slice(0, 4)), ("test", slice(4, 6))):
        write_parquet(
            tmp_path / "cropped_digits" / f"{part}-00000-of-00001.parquet",
            [encoded(image) for image in IMAGES[rows]],
            DIGITS[rows],
            list("0123456789"),
            image="image",
        )
    copy = datasets.DatasetDict(
        {
            part: datasets.Dataset.from_parquet(
                str(tmp_path / "cropped_digits" / f"{part}-00000-of-00001.parquet"),
                cache_dir=str(tmp_path / "arrow"),
            )
            for part in ("train", "test")
        }
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: copy)
    for source in (SVHN(folder=tmp_path), SVHN()):
        data = source.load()
        assert numpy.array_equal(data.train.images.numpy(), IMAGES[:4])
        assert data.test.labels.tolist() == DIGITS[4:]
