"""Labelled images from whatever holds them, and what is refused."""

import datasets
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from equipoise.data import DataError, Split, as_split

PIXELS = torch.randint(0, 256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
FLOATS = PIXELS.float() / 255


class Items(torch.utils.data.Dataset):
    """PIL images and plain numbers, as torchvision's datasets give them."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int):
        return Image.fromarray(PIXELS[index].permute(1, 2, 0).numpy()), int(LABELS[index])


def hugging_face() -> datasets.Dataset:
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    )
    images = [Items()[index][0] for index in range(6)]
    return datasets.Dataset.from_dict({"img": images, "label": LABELS.tolist()}, features=features)


@pytest.mark.parametrize(
    "data",
    [
        (PIXELS, LABELS),
        (FLOATS, LABELS.int()),
        (FLOATS.double().numpy(), LABELS.numpy()),
        (PIXELS.permute(0, 2, 3, 1).numpy(), LABELS.tolist()),
        [PIXELS, LABELS],
        (list(FLOATS), LABELS),
        TensorDataset(FLOATS, LABELS),
        DataLoader(TensorDataset(FLOATS, LABELS), batch_size=4),
        Items(),
        hugging_face(),
    ],
    ids=lambda data: type(data).__name__,
)
def test_every_holder_gives_the_same_images(data):
    split = as_split(data)
    assert torch.equal(split.images, PIXELS)
    assert torch.equal(split.labels, LABELS)
    assert split.classes == 3


def test_a_split_is_returned_as_it_is():
    split = Split(images=PIXELS, labels=LABELS, classes=5)
    assert as_split(split) is split


def test_grey_images_need_no_channel_and_a_range_may_be_stated():
    grey = as_split(PIXELS[:, 0], labels=LABELS, classes=4)
    assert grey.images.shape == (6, 1, 8, 8)
    assert grey.classes == 4
    assert torch.equal(as_split(FLOATS * 2 - 1, labels=LABELS, value_range=(-1, 1)).images, PIXELS)
    as_float = PIXELS.float()
    assert torch.equal(as_split(as_float, labels=LABELS, value_range=(0, 255)).images, PIXELS)


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (PIXELS.float(), {"labels": LABELS}, r"values in 0 to 1, got 0 to 255; say which range"),
        (FLOATS * 4 - 2, {"labels": LABELS}, r"put the normalisation into the network"),
        (
            PIXELS,
            {"labels": LABELS, "value_range": (0, 1)},
            r"uint8 images have values in 0 to 255",
        ),
        (FLOATS, {"labels": LABELS, "value_range": (1, 0)}, r"value_range must ascend"),
        (PIXELS[0, 0], {"labels": LABELS}, r"images must have the shape"),
        (PIXELS, {"labels": LABELS.float()}, r"labels must be whole numbers"),
        (PIXELS, {"labels": torch.eye(6)}, r"for one-hot labels pass labels.argmax"),
        (PIXELS, {"labels": LABELS - 1}, r"labels must be in \[0, 2\), got -1..1"),
        (PIXELS, {}, r"the data must be images and labels, got Tensor; pass \(images, labels\)"),
        ([PIXELS[0], PIXELS[0, :, :4]], {"labels": [0, 1]}, r"all images must have one shape"),
        ("folder", {"labels": LABELS}, r"images must be a tensor or an array, got str"),
        (DataLoader(TensorDataset(FLOATS)), {}, r"a batch of the DataLoader must be images and"),
        (TensorDataset(FLOATS[:0], LABELS[:0]), {}, r"must have at least one item, got none"),
    ],
)
def test_what_has_no_meaning_is_refused(data, settings, message):
    with pytest.raises(DataError, match=message):
        as_split(data, **settings)


def test_nan_is_refused():
    broken = FLOATS.clone()
    broken[0, 0, 0, 0] = float("nan")
    with pytest.raises(DataError, match="got nan to nan"):
        as_split(broken, labels=LABELS)


def test_columns_that_cannot_be_found_are_named():
    data = datasets.Dataset.from_dict({"picture": [1, 2], "label": [0, 1]})
    with pytest.raises(DataError, match=r"one image column and a label column, got .*picture"):
        as_split(data)
