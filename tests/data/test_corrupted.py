import numpy
import pytest
from writers import noise

from equipoise.data import DataError
from equipoise.data.corrupted import CorruptedSet

PIXELS = noise(20, 8).transpose(0, 2, 3, 1)  # 5 severities of 4 images
LABELS = numpy.array([0, 1, 2, 1])


def write(folder, labels=LABELS, **corruptions):
    folder.mkdir(parents=True, exist_ok=True)
    numpy.save(folder / "labels.npy", labels)
    for name, pixels in (corruptions or {"fog": PIXELS, "snow": PIXELS[::-1]}).items():
        numpy.save(folder / f"{name}.npy", pixels)
    return CorruptedSet(folder=folder)


@pytest.mark.parametrize("labels", [LABELS, numpy.tile(LABELS, 5)])
def test_severities_are_read_in_order_with_their_labels(tmp_path, labels):
    data = write(tmp_path, labels)
    assert data.corruptions() == ("fog", "snow")
    splits = data.severities("fog", classes=3)
    for number, split in enumerate(splits):
        pixels = split.images.permute(0, 2, 3, 1).numpy()
        assert numpy.array_equal(pixels, PIXELS[4 * number : 4 * number + 4])
        assert split.labels.tolist() == LABELS.tolist()
    assert len(splits) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fog": PIXELS[:19]}, "must hold 5 severities of the same images, .* got 19 images"),
        ({"labels": LABELS[:3]}, "got 20 images and 3 labels"),
        ({"fog": PIXELS / 255}, r"fog.npy are floats, whose black and white must be stated"),
        ({"labels": numpy.array(list("abcd"))}, "labels.npy must be whole numbers"),
        ({"fog": numpy.array([{}])}, "fog.npy cannot be read as a plain array"),
        ({"labels": LABELS + 1}, r"labels must be in \[0, 3\), got 1..3"),
    ],
)
def test_other_arrays_are_refused(tmp_path, changes, message):
    numpy.save(tmp_path / "fog.npy", PIXELS)
    data = write(tmp_path, **({"fog": PIXELS} | changes))
    with pytest.raises(DataError, match=message):
        data.severities("fog", classes=3)


def test_other_folders_are_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match=r"folder with labels.npy and an .npy file of images"):
            CorruptedSet(folder=folder).corruptions()
