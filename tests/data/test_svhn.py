import datasets
import numpy
import pytest
from scipy.io import savemat
from writers import encoded, noise, write_parquet

from equipoise.data import SVHN, DataError

IMAGES = noise(6)
LABELS = [10, 1, 2, 9, 10, 5]  # 10 is the digit 0
DIGITS = [0, 1, 2, 9, 0, 5]


def write_mat(folder, part="train", rows=slice(0, 4), **changes):
    variables = {
        "X": IMAGES[rows].transpose(2, 3, 1, 0),
        "y": numpy.array(LABELS[rows], dtype=numpy.uint8)[:, None],
    }
    found = {name: value for name, value in (variables | changes).items() if value is not None}
    savemat(folder / f"{part}_32x32.mat", found, do_compression=True)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_mat(write_mat(tmp_path), "test", slice(4, 6))


def test_the_mat_files_are_read_and_10_is_the_digit_0(folder):
    found = SVHN(folder=folder).load()
    assert (found.name, found.class_names) == ("svhn", tuple("0123456789"))
    assert numpy.array_equal(found.train.images.numpy(), IMAGES[:4])
    assert numpy.array_equal(found.test.images.numpy(), IMAGES[4:])
    assert found.train.labels.tolist() + found.test.labels.tolist() == DIGITS


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"X": None}, r"lacks the variable X; it has \['y'\]"),
        ({"X": None, "y": None, "z": 1.0}, "lacks the variable X and y"),
        ({"X": numpy.zeros((32, 32, 3, 4))}, "X must be uint8 of shape .* got double"),
        ({"X": numpy.zeros((4, 3, 32, 32), dtype=numpy.uint8)}, r"X must be .* \(4, 3, 32, 32\)"),
        (
            {"y": numpy.ones((3, 1), dtype=numpy.uint8)},
            r"y must be of shape \(4, 1\), got \(3, 1\)",
        ),
        ({"y": numpy.array([[0], [1], [2], [3]])}, r"y must be in 1..10, got 0..3"),
        ({"y": numpy.array([[11], [1], [2], [3]])}, r"y must be in 1..10, got 1..11"),
    ],
)
def test_other_content_is_refused(folder, changes, reason):
    write_mat(folder, **changes)
    with pytest.raises(DataError, match=rf"train_32x32.mat.* {reason}"):
        SVHN(folder=folder).load()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
def test_a_file_cut_short_is_refused(folder, share):
    path = folder / "test_32x32.mat"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"test_32x32.mat (cannot be read|lacks)"):
        SVHN(folder=folder).load()


def test_a_missing_file_is_refused(folder):
    (folder / "test_32x32.mat").unlink()
    with pytest.raises(DataError, match=r"there is no file .*test_32x32.mat; give the folder"):
        SVHN(folder=folder).load()


def test_the_hubs_parquet_and_the_hub_itself_are_read(tmp_path, monkeypatch):
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
        found = source.load()
        assert numpy.array_equal(found.train.images.numpy(), IMAGES[:4])
        assert found.test.labels.tolist() == DIGITS[4:]
