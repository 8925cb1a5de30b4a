import numpy
import pytest
import torch
from writers import noise

from equipoise.data import DataError
from equipoise.data.pixels import to_labels, to_uint8

PIXELS = torch.from_numpy(noise(4, 8))  # uint8, (4, 3, 8, 8)
LAST = PIXELS.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("images", "value_range"),
    [
        (PIXELS, None),
        (PIXELS.float() / 255, None),
        (PIXELS.double() / 255, (0, 1)),
        (PIXELS.float() / 127.5 - 1, (-1, 1)),
        (PIXELS.numpy(), None),
        (PIXELS.numpy(), (0, 255)),
        (LAST, None),
        (LAST.astype(numpy.float32), (0, 255)),
        (LAST.astype(">f4") / 255, (0, 1)),
        (LAST[::-1][::-1], None),
    ],
)
def test_all_forms_of_the_same_images_give_the_same_pixels(images, value_range):
    assert torch.equal(to_uint8(images, value_range), PIXELS)


def test_grey_images_get_a_channel():
    assert torch.equal(to_uint8(PIXELS[:, 0]), PIXELS[:, :1])
    assert torch.equal(to_uint8(PIXELS[:, 0].numpy()), PIXELS[:, :1])


@pytest.mark.parametrize(
    ("images", "value_range", "message"),
    [
        (
            LAST / 255,
            None,
            r"must be stated, got torch.float64 from 0 to 1; pass value_range=\(0, 1\)\.",
        ),
        (
            PIXELS.float(),
            None,
            r"in \[0, 1\], got torch.float32 from 0 to 255; pass value_range=\(0, 255\)\.",
        ),
        (PIXELS.float() / 255 - 3, (-1, 1), r"from -3 to -2; pass value_range=\(black, white\)"),
        (LAST / 127.5 - 1, None, r"pass value_range=\(-1, 1\)"),
        (PIXELS.float() / 255 * float("nan"), None, "from nan to nan"),
        (PIXELS.float(), (1, 0), r"ascending, got \(1, 0\)"),
        (PIXELS, (0, 1), "uint8, which need no range"),
        (PIXELS.long(), None, r"images.astype\('uint8'\)"),
        (torch.from_numpy(LAST.copy()), None, r"images.permute\(0, 3, 1, 2\)"),
        (PIXELS[:, :, :3, :3].numpy(), None, "could have them in either place"),
        (PIXELS.numpy()[:, :2], None, "has neither"),
        (PIXELS[0, 0], None, r"must be one array .* got \(8, 8\)"),
        (numpy.array(["a"]), None, "got <U1 of shape"),
    ],
)
def test_other_images_are_refused_with_the_remedy(images, value_range, message):
    with pytest.raises(DataError, match=message):
        to_uint8(images, value_range)


def test_labels_are_taken_from_lists_columns_and_tensors():
    for labels in ([2, 0], [[2], [0]], numpy.array([2, 0], numpy.uint8), torch.tensor([2, 0])):
        assert to_labels(labels, 2).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 1.0], "whole numbers, one for each of the 2 images .* got float64"),
        ([0], r"got int64 of shape \(1,\)"),
        ([[0, 1], [1, 0]], r"labels.argmax\(1\)"),
        (["cat", "dog"], "got <U3"),
    ],
)
def test_other_labels_are_refused_with_the_remedy(labels, message):
    with pytest.raises(DataError, match=message):
        to_labels(labels, 2)
