import datasets
import numpy
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from writers import noise

from equipoise.data import DataError, as_split

PIXELS = torch.from_numpy(noise(4, 8))  # uint8, (4, 3, 8, 8)
LABELS = torch.tensor([2, 0, 1, 2])


class Pictures(Dataset):
    """Images of Pillow with labels, like a data set of torchvision without a transform."""

    def __init__(self, modes=("RGB",) * 4, labels=(2, 0, 1, 2)):
        self.modes, self.labels = modes, labels

    def __len__(self):
        return len(self.modes)

    def __getitem__(self, index):
        image = Image.fromarray(PIXELS[index].permute(1, 2, 0).numpy())
        return image.convert(self.modes[index]), self.labels[index]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(PIXELS.float() / 255, LABELS, strict=True))


def hugging_face(label="label", names=("cat", "dog", "emu")):
    kind = datasets.ClassLabel(names=list(names))
    rows = {
        "id": [f"{index}.png" for index in range(4)],
        "img": [image for image, _ in (Pictures()[index] for index in range(4))],
        label: LABELS.tolist(),
    }
    features = datasets.Features(id=datasets.Value("string"), img=datasets.Image(), **{label: kind})
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize(
    "data",
    [
        (PIXELS, LABELS),
        (PIXELS.float() / 255, LABELS.tolist()),
        (PIXELS.numpy().transpose(0, 2, 3, 1), LABELS.numpy()),
        TensorDataset(PIXELS.float() / 255, LABELS),
        DataLoader(TensorDataset(PIXELS, LABELS), batch_size=3),
        Pictures(),
        Stream(),
        DataLoader(Stream(), batch_size=2),
        hugging_face(),
        hugging_face().with_format("torch"),
        hugging_face().to_iterable_dataset(),
    ],
    ids=lambda data: type(data).__name__,
)
def test_every_form_of_labelled_images_gives_the_same_split(data):
    split = as_split(data)
    assert torch.equal(split.images, PIXELS)
    assert torch.equal(split.labels, LABELS)
    assert split.classes == 3


def test_a_split_is_returned_and_labels_and_classes_are_used():
    split = as_split(PIXELS, labels=LABELS, classes=7)
    assert split.classes == 7
    assert as_split(split) is split


def test_the_range_applies_to_every_image_of_a_data_set():
    signed = TensorDataset(PIXELS.float() / 127.5 - 1, LABELS)
    assert torch.equal(as_split(signed, value_range=(-1, 1)).images, PIXELS)
    with pytest.raises(DataError, match=r"image 0 must be in \[0, 1\], got torch.float32 from -1"):
        as_split(signed)


def test_grey_pictures_stay_grey_unless_others_have_colours():
    assert as_split(Pictures(("L",) * 4)).images.shape == (4, 1, 8, 8)
    mixed = as_split(Pictures(("L", "RGB", "RGB", "L"))).images
    assert mixed.shape == (4, 3, 8, 8)
    assert torch.equal(mixed[1:3], PIXELS[1:3])


def different_sizes():
    return TensorDataset(PIXELS, LABELS), TensorDataset(PIXELS[:, :, :4], LABELS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (PIXELS, "got Tensor without labels"),
        ((PIXELS.tolist(), LABELS), r"tuple \(images, labels\) .*, got list"),
        ((PIXELS, LABELS + 1), r"must count from 0, got 1 to 3; pass labels - 1, or classes=4"),
        (TensorDataset(PIXELS), r"pair \(image, label\), got 1 values"),
        (TensorDataset(PIXELS, LABELS, LABELS), r"pair \(image, label\), got 3 values"),
        ([*zip(PIXELS, LABELS, strict=True)], "DataLoader of PyTorch, .* got list"),
        (DataLoader(TensorDataset(PIXELS, LABELS), drop_last=True), "drop_last=True; pass its"),
        (torch.utils.data.Subset(Pictures(), []), "Subset must have at least one image"),
        (Pictures(labels=(0, 1, 2, "cat")), "labels of image 3 must be whole numbers"),
        (
            torch.utils.data.ConcatDataset(different_sizes()),
            r"same size, got .* \(3, 4, 8\) and \(3, 8, 8\); resize",
        ),
        (datasets.DatasetDict(test=hugging_face()), r"one split, got test; pass data\['test'\]"),
        (hugging_face().remove_columns("img"), "exactly one column of images, got none"),
        (hugging_face().remove_columns("label"), "must have a column of labels"),
    ],
)
def test_other_data_is_refused_with_the_remedy(data, message):
    with pytest.raises(DataError, match=message):
        as_split(data)


def test_labels_beside_a_data_set_are_refused():
    with pytest.raises(DataError, match="labels must be None for a TensorDataset"):
        as_split(TensorDataset(PIXELS, LABELS), labels=LABELS)


def test_classes_must_suffice():
    with pytest.raises(DataError, match=r"labels must be in \[0, 2\), got 0..2"):
        as_split((numpy.zeros((4, 8, 8), numpy.uint8), LABELS), classes=2)


@pytest.mark.parametrize("label", ["fine_label", "class", "answer"])
def test_declared_and_usual_columns_of_labels_are_found(label):
    assert as_split(hugging_face(label)).labels.tolist() == LABELS.tolist()
