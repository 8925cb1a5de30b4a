import numpy
import pytest
from writers import noise

from equipoise.data import DataError, NpzFile, npz

IMAGES = noise(7, 5)
ROWS = IMAGES.transpose(0, 2, 3, 1)  # height, width, channel
ARRAYS = {
    "train_images": ROWS[:5],
    "train_labels": numpy.array([0, 1, 2, 0, 1], dtype=numpy.uint8),
    "test_images": ROWS[5:],
    "test_labels": numpy.array([2, 0], dtype=numpy.uint8),
}


def write(path, save=numpy.savez, **changes):
    arrays = ARRAYS | changes
    save(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.mark.parametrize("save", [numpy.savez, numpy.savez_compressed])
def test_images_and_labels_are_read(tmp_path, save):
    data = NpzFile(path=write(tmp_path / "mine.npz", save)).load()
    assert (data.name, data.class_names) == ("mine", ("0", "1", "2"))
    assert numpy.array_equal(data.train.images.numpy(), IMAGES[:5])
    assert numpy.array_equal(data.test.images.numpy(), IMAGES[5:])
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1]
    assert data.test.labels.tolist() == [2, 0]


def test_grey_images_columns_of_labels_and_class_names_are_read(tmp_path):
    path = write(
        tmp_path / "mine.npz",
        train_images=ROWS[:5, :, :, 0],
        test_images=ROWS[5:, :, :, 0],
        train_labels=ARRAYS["train_labels"][:, None],
        class_names=numpy.array(["cat", "dog", "emu", "fox"]),
    )
    data = NpzFile(path=path, name="pets").load()
    assert (data.name, data.class_names) == ("pets", ("cat", "dog", "emu", "fox"))
    assert numpy.array_equal(data.train.images.numpy(), IMAGES[:5, :1])
    assert data.classes == 4


def test_class_names_that_are_stored_as_bytes_are_decoded(tmp_path):
    names = numpy.array([name.encode() for name in ("chat", "chien", "émeu")])
    data = NpzFile(path=write(tmp_path / "mine.npz", class_names=names)).load()
    assert data.class_names == ("chat", "chien", "émeu")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"test_labels": None}, "lacks the array test_labels; it has"),
        (
            {"train_images": ROWS[:5].astype(float)},
            r"are floats.*mine.npz', \*\*numpy.load\('mine.npz'\), value_range=\(0, 255\)\)",
        ),
        ({"value_range": numpy.array([1])}, "value_range must be two numbers.*got int64 of shape"),
        ({"test_images": ROWS[0, 0]}, r"test_images must be one array .* \(5, 3\)"),
        (
            {"test_images": ROWS[5:, :2]},
            r"test_images must have the shape of train_images.*\(3, 2, 5\)",
        ),
        (
            {"train_labels": numpy.array([1, 2, 4, 1, 2])},
            "each label of a test image must have training images, got 0",
        ),
        ({"train_labels": None}, "lacks the array train_labels; it has"),
        ({"train_labels": numpy.zeros(5)}, "train_labels must be whole numbers.*float64"),
        ({"train_labels": numpy.zeros(4, dtype=int)}, "one for each of the 5 images"),
        ({"test_labels": numpy.array([0, 3])}, r"labels must be in \[0, 3\), got 0..3"),
        ({"test_labels": numpy.array([0, -1])}, r"labels must be in \[0, 3\), got -1..0"),
        ({"train_images": numpy.array([{}])}, "cannot be read as an .npz of plain arrays"),
        (
            {"class_names": numpy.array("cat")},
            r"class_names must be a vector of strings.*shape \(\)",
        ),
        ({"class_names": numpy.array([{}])}, "cannot be read as an .npz of plain arrays"),
    ],
)
def test_other_content_is_refused(tmp_path, changes, reason):
    with pytest.raises(DataError, match=reason):
        NpzFile(path=write(tmp_path / "mine.npz", **changes)).load()


def test_floats_with_a_stated_range_and_channels_first_are_the_same_images(tmp_path):
    changes = {"train_images": IMAGES[:5] / 127.5 - 1, "test_images": ROWS[5:] / 127.5 - 1}
    path = write(tmp_path / "mine.npz", value_range=(-1, 1), **changes)
    data = NpzFile(path=path).load()
    assert numpy.array_equal(data.train.images.numpy(), IMAGES[:5])
    assert numpy.array_equal(data.test.images.numpy(), IMAGES[5:])


def test_labels_with_an_offset_and_gaps_are_numbered_and_named(tmp_path):
    labels = {"train_labels": numpy.array([1, 7, 3, 1, 3]), "test_labels": numpy.array([7, 1])}
    data = NpzFile(path=write(tmp_path / "mine.npz", **labels)).load()
    assert data.class_names == ("1", "3", "7")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 2, 1, 0, 1], [2, 0])
    assert "the labels 1 to 7 were numbered as classes 0 to 2." in data.summary()


def test_test_arrays_alone_are_a_test_set(tmp_path):
    path = write(tmp_path / "mine.npz", train_images=None, train_labels=None)
    data = NpzFile(path=path).load()
    assert (len(data.train), len(data.test), data.classes) == (0, 2, 3)
    assert data.image_shape == (3, 5, 5)
    assert data.summary().startswith("mine: 2 test images, 5x5, 3 channels; 3 classes of 0 (1) to")
    assert data.digest() != NpzFile(path=write(tmp_path / "mine.npz")).load().digest()


@pytest.mark.parametrize("path", [None, "nowhere.npz"])
def test_missing_file_is_refused(path, tmp_path):
    with pytest.raises(DataError, match=r"must be an existing .npz file, got .*; give --data FILE"):
        NpzFile(path=path and tmp_path / path).load()


def test_huge_compressed_array_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "MAX_COMPRESSED_BYTES", 300)
    with pytest.raises(
        DataError,
        match=r"train_images.npy must unpack to at most 300 bytes, got 503; .*numpy.savez",
    ):
        NpzFile(path=write(tmp_path / "mine.npz", numpy.savez_compressed)).load()
    assert NpzFile(path=write(tmp_path / "mine.npz")).load()
