import io
import json
import tarfile

import datasets
import numpy
import pytest
import torch
from PIL import Image
from writers import noise

from equipoise.data import DataError, HuggingFace, ImageFolder, recognise
from equipoise.data.hugging_face import draw_share

PIXELS = noise(12, 8)  # uint8, (12, 3, 8, 8)
LABELS = [0, 1, 2] * 4


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS[number].transpose(1, 2, 0)).save(stream, "PNG")
    return stream.getvalue()


def write_images(folder, numbers=range(12)):
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number}.png").write_bytes(png(number))
    return folder


def rows(numbers, label="label", labels=LABELS):
    images = [{"bytes": png(number), "path": None} for number in numbers]
    return {"image": images, label: [labels[number] for number in numbers]}


def split(numbers, kind=None, **columns):
    made = datasets.Dataset.from_dict(rows(numbers, **columns))
    made = made.cast_column("image", datasets.Image())
    return made if kind is None else made.cast_column("label", kind)


def saved(folder, **splits):
    datasets.DatasetDict(splits).save_to_disk(str(folder))
    return folder


def save_to_disk(folder):
    kind = datasets.ClassLabel(names=["0", "1", "2"])
    return saved(folder, train=split(range(9), kind), test=split(range(9, 12), kind))


def labels_csv(folder):
    write_images(folder / "images")
    lines = [
        f"images/{number}.png,{LABELS[number]},{'train' if number < 9 else 'test'}"
        for number in range(12)
    ]
    (folder / "labels.csv").write_text("\n".join(["file_name,label,split", *lines]))
    return folder


def metadata_jsonl(folder):
    for part, numbers in (("train", range(9)), ("test", range(9, 12))):
        write_images(folder / part, numbers)
        lines = [{"file_name": f"{number}.png", "label": LABELS[number]} for number in numbers]
        (folder / part / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def metadata_csv(folder):
    for part, numbers in (("train", range(9)), ("validation", range(9, 12))):
        write_images(folder / part, numbers)
        lines = [f"{number}.png,{LABELS[number]}" for number in numbers]
        (folder / part / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    return folder


def web_dataset(folder):
    folder.mkdir()
    for part, numbers in (("train", range(9)), ("test", range(9, 12))):
        with tarfile.open(folder / f"{part}-000.tar", "w") as archive:
            for number in numbers:
                for suffix, content in (("png", png(number)), ("cls", b"%d" % LABELS[number])):
                    entry = tarfile.TarInfo(f"{number:03d}.{suffix}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    return folder


def parquet(folder):
    (folder / "data").mkdir(parents=True)
    for part, numbers in (("train", range(9)), ("test", range(9, 12))):
        split(numbers).to_parquet(folder / "data" / f"{part}-00000-of-00001.parquet")
    return folder


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of metadata.csv, by datasets
@pytest.mark.parametrize(
    "write", [save_to_disk, labels_csv, metadata_jsonl, metadata_csv, web_dataset, parquet]
)
def test_every_layout_gives_the_same_images_and_labels(tmp_path, write):
    source = recognise(write(tmp_path / "mine"))
    assert isinstance(source, HuggingFace)
    data = source.load()
    assert (data.name, data.class_names, data.notes) == ("mine", ("0", "1", "2"), ())
    assert numpy.array_equal(data.train.images.numpy(), PIXELS[:9])
    assert numpy.array_equal(data.test.images.numpy(), PIXELS[9:])
    assert data.train.labels.tolist() == LABELS[:9]
    assert data.test.labels.tolist() == LABELS[9:]
    again = source.load()
    assert again.digest() == data.digest()


def test_changed_images_are_decoded_again(tmp_path):
    source = recognise(labels_csv(tmp_path / "mine"))
    before = source.load()
    (tmp_path / "mine" / "images" / "3.png").write_bytes(png(4))
    after = source.load()
    assert numpy.array_equal(after.train.images[3].numpy(), PIXELS[4])
    assert before.digest() != after.digest()


def test_names_and_offset_labels_are_numbered(tmp_path):
    names = ["cat", "dog", "ant"] * 4
    words = saved(
        tmp_path / "a", train=split(range(9), labels=names), test=split([9], labels=names)
    )
    data = HuggingFace(folder=words).load()
    assert data.class_names == ("ant", "cat", "dog")
    assert data.train.labels.tolist() == [1, 2, 0] * 3
    assert data.test.labels.tolist() == [1]
    shifted = [label * 2 + 1 for label in LABELS]
    gaps = saved(tmp_path / "b", train=split(range(9), labels=shifted))
    data = HuggingFace(folder=gaps).load()
    assert data.class_names == ("1", "3", "5")
    assert "the labels 1 to 5 were numbered as classes 0 to 2" in data.notes


def test_a_single_split_is_divided_and_a_test_split_alone_is_a_test_set(tmp_path):
    split(range(12)).save_to_disk(str(tmp_path / "one"))
    data = recognise(tmp_path / "one").load()
    assert (len(data.train), len(data.test)) == (9, 3)
    assert sorted(data.test.labels.tolist()) == [0, 1, 2]
    assert "about 0.2 of each class was selected for testing." in data.summary()
    data = HuggingFace(folder=saved(tmp_path / "test", test=split([1, 2, 4, 5]))).load()
    assert (len(data.train), len(data.test)) == (0, 4)
    assert data.class_names == ("0", "1", "2")  # labels of a test set are not renumbered


def test_other_splits_are_named_and_chosen(tmp_path):
    folder = saved(tmp_path / "a", train=split([0, 1]), valid=split([3]), test=split([4]))
    data = HuggingFace(folder=folder).load()
    assert "the split valid was not read" in data.notes
    assert data.test.labels.tolist() == [1]
    assert HuggingFace(folder=folder, test="valid").load().test.labels.tolist() == [0]


def test_images_are_scaled_and_made_grey(tmp_path):
    data = HuggingFace(folder=labels_csv(tmp_path / "mine"), size=4, grey=True).load()
    assert data.image_shape == (1, 4, 4)


def test_broken_images_are_refused_or_skipped(tmp_path):
    folder = labels_csv(tmp_path / "mine")
    (folder / "images" / "3.png").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"1 of 9 images are broken \(.*image 3 of train: .*skip"):
        HuggingFace(folder=folder).load()
    data = HuggingFace(folder=folder, on_broken="skip").load()
    assert data.train.labels.tolist() == LABELS[:3] + LABELS[4:9]
    assert "1 broken images were left out" in data.summary()


def without_labels(folder):
    return saved(folder, train=split(range(3)).remove_columns("label"))


def unlabelled(folder):
    kind = datasets.ClassLabel(names=["0", "1", "2"])
    return saved(folder, train=split(range(3), kind), test=split([3], kind, labels=[-1] * 4))


def other_splits(folder):
    return saved(folder, one=split([0]), two=split([1]))


def new_label(folder):
    return saved(
        folder, train=split([0, 1], labels=list("abc")), test=split([2], labels=list("abc"))
    )


def no_header(folder):
    (write_images(folder) / "labels.csv").write_text("0.png,1\n1.png,0\n")
    return folder


def missing_image(folder):
    (write_images(folder) / "labels.csv").write_text("file_name,label\n0.png,1\n99.png,0\n")
    return folder


def damaged(folder):
    save_to_disk(folder)
    next((folder / "train").glob("*.arrow")).write_bytes(b"nonsense")
    return folder


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (without_labels, "must have a column of labels .*--dataset.image and --dataset.label"),
        (unlabelled, r"test must have a whole number or a name as each label.*got -1"),
        (other_splits, "must have a split named train or test, got one, two; rename one"),
        (new_label, "each label of a test image must have training images, got 'c'"),
        (no_header, r"labels.csv must have a header with the columns file_name and label, got"),
        (missing_image, r"labels.csv, line 3: there is no image .*99.png; paths are relative"),
        (damaged, "cannot be read by the library datasets"),
        (lambda folder: folder, "does not exist; check --data"),
    ],
)
def test_other_folders_are_refused_with_the_remedy(tmp_path, write, message):
    with pytest.raises(DataError, match=message):
        HuggingFace(folder=write(tmp_path / "mine")).load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "kind"}, r"train lacks the column kind; it has image, label"),
        ({"test": "eval"}, "has no split eval; it has train, test"),
    ],
)
def test_names_that_are_not_there_are_refused(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        HuggingFace(folder=save_to_disk(tmp_path / "mine"), **options).load()


def test_columns_are_chosen_by_name(tmp_path):
    table = split(range(6)).add_column("kind", ["a", "b"] * 3)
    data = HuggingFace(folder=saved(tmp_path / "mine", train=table), label="kind").load()
    assert data.class_names == ("a", "b")


def test_without_a_network_a_name_on_the_hub_is_refused_with_the_remedy():
    with pytest.raises(DataError, match=r"me/mine cannot be read .*save_to_disk and give --data"):
        HuggingFace(hub="me/mine").load()
    with pytest.raises(DataError, match="must have a folder, got none"):
        HuggingFace().load()


def test_an_image_folder_names_the_reader_of_other_layouts(tmp_path):
    with pytest.raises(DataError, match=r"written by save_to_disk.*--dataset huggingface"):
        ImageFolder(folder=save_to_disk(tmp_path / "a")).load()
    with pytest.raises(DataError, match="leave --dataset out: other layouts are recognised"):
        ImageFolder(folder=labels_csv(tmp_path / "b")).load()


def test_a_share_of_each_class_is_drawn():
    labels = torch.tensor([0] * 10 + [1] * 2 + [2] * 5)
    drawn = draw_share(labels, 0.3, seed=1)
    assert labels[drawn].bincount().tolist() == [3, 1, 2]
    assert torch.equal(drawn, draw_share(labels, 0.3, seed=1))
    with pytest.raises(DataError, match=r"two images or more, .* got 1 of class 0"):
        draw_share(torch.tensor([0, 1, 1]), 0.3, seed=1)
