import hashlib
import tarfile
from pathlib import Path

import datasets
import numpy
import pytest
import torch
from pyarrow import Table, parquet
from writers import (
    HUNDRED,
    TEN,
    encoded,
    noise,
    python2_pickle,
    python3_pickle,
    write_cifar10,
    write_cifar100,
    write_parquet,
)

from equipoise.data import Cifar10, Cifar100, DataError, archives

IMAGES = noise(12)
LABELS = numpy.array([9, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2])
FINE = numpy.array([99, 1, 52, 3, 4, 5, 6, 7, 8, 0, 1, 2])


def write_hub(
    folder: Path, hundred: bool = False, subfolder: str = "data", coding: str = "PNG"
) -> Path:
    train = 6 if hundred else 10
    for part, rows in (("train", slice(0, train)), ("test", slice(train, 12))):
        write_parquet(
            folder / subfolder / f"{part}-00000-of-00001.parquet",
            [encoded(image, coding) for image in IMAGES[rows]],
            [int(label) for label in (FINE if hundred else LABELS)[rows]],
            HUNDRED if hundred else TEN,
            label="fine_label" if hundred else "label",
        )
    return folder


def write_binary(folder: Path, hundred: bool = False) -> Path:
    folder.mkdir()
    rows = IMAGES.reshape(12, -1)
    if hundred:
        marks = numpy.stack([FINE // 5, FINE], axis=1).astype(numpy.uint8)
        parts, names = {"train": slice(0, 6), "test": slice(6, 12)}, HUNDRED
    else:
        marks = LABELS[:, None].astype(numpy.uint8)
        parts = {f"data_batch_{n + 1}": slice(2 * n, 2 * n + 2) for n in range(5)}
        parts, names = parts | {"test_batch": slice(10, 12)}, TEN
    for name, chosen in parts.items():
        content = numpy.concatenate([marks, rows], axis=1)[chosen]
        (folder / f"{name}.bin").write_bytes(content.tobytes())
    names_file = "fine_label_names.txt" if hundred else "batches.meta.txt"
    (folder / names_file).write_text("\n".join(names) + "\n\n")
    return folder


def pack(folder: Path, path: Path, monkeypatch) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    monkeypatch.setitem(archives.PUBLISHED, path.name, hashlib.md5(path.read_bytes()).hexdigest())
    return path


def ten(layout: str, root: Path, monkeypatch) -> Path:
    """The place to give for a layout of CIFAR-10."""
    if layout == "hub":
        return write_hub(root)
    if layout == "hub's own folder":
        return write_hub(root, subfolder="plain_text")
    if layout == "binary":
        return write_binary(root / "cifar-10-batches-bin").parent
    dump = python3_pickle(4) if layout == "pickles of Python 3" else python2_pickle
    inside = write_cifar10(root / "source" / "cifar-10-batches-py", IMAGES, LABELS, dump)
    if layout == "archive":
        return pack(inside, root / "cifar-10-python.tar.gz", monkeypatch).parent
    if layout == "archive itself":
        return pack(inside, root / "cifar-10-python.tar.gz", monkeypatch)
    return inside if layout == "pickles" else inside.parent


@pytest.mark.parametrize(
    "layout",
    ["hub", "hub's own folder", "binary", "archive", "archive itself", "pickles",
     "the folder around pickles", "pickles of Python 3"],
)  # fmt: skip
def test_cifar10_is_the_same_from_every_layout(layout, tmp_path, monkeypatch):
    data = Cifar10(folder=ten(layout, tmp_path, monkeypatch)).load()
    assert (data.name, data.class_names) == ("cifar10", tuple(TEN))
    assert data.train.images.is_contiguous()
    assert numpy.array_equal(data.train.images.numpy(), IMAGES[:10])
    assert numpy.array_equal(data.test.images.numpy(), IMAGES[10:])
    assert data.train.labels.tolist() == LABELS[:10].tolist()
    assert data.test.labels.tolist() == [1, 2]


@pytest.mark.parametrize("layout", ["hub", "binary", "archive", "pickles"])
def test_cifar100_has_its_fine_labels_from_every_layout(layout, tmp_path, monkeypatch):
    if layout == "hub":
        folder = write_hub(tmp_path, hundred=True, subfolder="cifar100")
    elif layout == "binary":
        folder = write_binary(tmp_path / "cifar-100-binary", hundred=True).parent
    else:
        inside = write_cifar100(tmp_path / "source" / "cifar-100-python", IMAGES, FINE)
        folder = inside.parent
        if layout == "archive":
            folder = pack(inside, tmp_path / "cifar-100-python.tar.gz", monkeypatch).parent
    data = Cifar100(folder=folder).load()
    assert (data.name, data.class_names) == ("cifar100", tuple(HUNDRED))
    assert numpy.array_equal(data.train.images.numpy(), IMAGES[:6])
    assert numpy.array_equal(data.test.images.numpy(), IMAGES[6:])
    assert data.train.labels.tolist() == FINE[:6].tolist()


@pytest.mark.parametrize("limit", [0, -5])
@pytest.mark.parametrize("source", [Cifar10, Cifar100])
def test_limit_below_one_is_refused(source, limit):
    with pytest.raises(ValueError, match=rf"limit must be 1 or more, or None .*, got {limit}"):
        source(limit=limit)


@pytest.mark.parametrize("layout", ["hub", "pickles"])
def test_limit_applies_to_the_training_split_only(layout, tmp_path, monkeypatch):
    data = Cifar10(folder=ten(layout, tmp_path, monkeypatch), limit=1).load()
    assert (len(data.train), len(data.test), data.classes) == (1, 2, 10)
    assert torch.equal(data.train.images, torch.from_numpy(IMAGES[:1]))


def test_data_set_of_jpeg_images_has_its_own_name(tmp_path):
    assert Cifar10(folder=write_hub(tmp_path, coding="JPEG")).load().name == "cifar10-jpeg"


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


def test_batch_that_would_run_a_command_is_refused_by_name(tmp_path):
    folder = write_cifar10(tmp_path / "cifar", IMAGES, LABELS)
    trap = Runs(tmp_path / "ran")
    (folder / "data_batch_3").write_bytes(python3_pickle(2)({"labels": [1], "data": trap}))
    with pytest.raises(DataError, match=r"cifar: data_batch_3 is rejected: it names \w+\.system"):
        Cifar10(folder=folder).load()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("data_batch_2", {"labels": [1]}, "data_batch_2: data must be rows of 3072 bytes"),
        ("data_batch_2", {"data": noise(1, 8).reshape(1, -1)}, "data must be rows of 3072"),
        ("test_batch", {"data": IMAGES[:1].reshape(1, -1)}, "labels must be a list of numbers"),
        (
            "test_batch",
            {"data": IMAGES[:1].reshape(1, -1), "labels": ["1"]},
            "labels must be a list of numbers",
        ),
        (
            "test_batch",
            {"data": IMAGES[:1].reshape(1, -1), "labels": [1, 2]},
            "1 images and 2 labels",
        ),
        (
            "test_batch",
            {"data": IMAGES[:1].reshape(1, -1), "labels": [10]},
            r"in \[0, 10\), got 10",
        ),
        ("batches.meta", {"label_names": 3}, "label_names must be a list of texts"),
    ],
)
def test_batch_with_other_content_is_refused(tmp_path, name, content, reason):
    folder = write_cifar10(tmp_path / "cifar", IMAGES, LABELS)
    (folder / name).write_bytes(python2_pickle(content))
    with pytest.raises(DataError, match=reason):
        Cifar10(folder=folder).load()


def test_missing_batch_is_refused_by_name(tmp_path):
    folder = write_cifar10(tmp_path / "cifar", IMAGES, LABELS)
    (folder / "data_batch_4").unlink()
    with pytest.raises(DataError, match="lacks the file data_batch_4"):
        Cifar10(folder=folder).load()


@pytest.mark.parametrize("bytes_left", [0, 3072, 3075])
def test_truncated_binary_file_is_refused(tmp_path, bytes_left):
    folder = write_binary(tmp_path / "binary", hundred=True)
    content = (folder / "train.bin").read_bytes()
    (folder / "train.bin").write_bytes(content[:bytes_left])
    with pytest.raises(DataError, match="must hold a whole number of records of 3074 bytes"):
        Cifar100(folder=folder).load()


def test_altered_archive_is_refused(tmp_path):
    inside = write_cifar10(tmp_path / "source" / "cifar-10-batches-py", IMAGES, LABELS)
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(inside, inside.name)
    with pytest.raises(DataError, match="the published one is c58f30108f718f92721af3b95e74349a"):
        Cifar10(folder=tmp_path).load()


def test_missing_folder_is_refused_with_the_layouts(tmp_path):
    with pytest.raises(
        DataError, match=r"nowhere holds no data/train-\*.parquet.*cifar-100-python.tar.gz"
    ):
        Cifar100(folder=tmp_path / "nowhere").load()


def test_folder_without_a_test_split_is_refused(tmp_path):
    (write_hub(tmp_path) / "data" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"holds no data/test-\*.parquet"):
        Cifar10(folder=tmp_path).load()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_parquet_file_is_refused(tmp_path, share):
    path = write_hub(tmp_path) / "data" / "train-00000-of-00001.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"train-00000-of-00001.parquet cannot be read as parquet"):
        Cifar10(folder=tmp_path).load()


def rewrite(folder: Path, images: list, labels: list, **columns: str) -> Path:
    write_hub(folder)
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", images, labels, TEN, **columns)
    return folder


GOOD = encoded(IMAGES[0])


def test_missing_column_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"lacks the column img; it has \['image', 'label'\]"):
        Cifar10(folder=rewrite(tmp_path, [GOOD], [0], image="image")).load()


@pytest.mark.parametrize("content", [b"", b"not an image", GOOD[:40], None])
def test_broken_image_is_refused_by_its_number(tmp_path, content):
    with pytest.raises(DataError, match="image 1 of test is broken"):
        Cifar10(folder=rewrite(tmp_path, [GOOD, content], [1, 2])).load()


def test_missing_label_is_refused(tmp_path):
    with pytest.raises(DataError, match="image 1 of test must have a whole number as its"):
        Cifar10(folder=rewrite(tmp_path, [GOOD, GOOD], [1, None])).load()


def test_split_without_rows_is_refused(tmp_path):
    with pytest.raises(DataError, match="test must have at least one image, got none"):
        Cifar10(folder=rewrite(tmp_path, [], [])).load()


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"img": [1, 2], "label": [0, 1]}, "test holds no images in the column img"),
        ({"img": [GOOD, GOOD], "label": ["cat", "dog"]}, "a whole number as its label, got 'cat'"),
    ],
)
def test_column_of_another_type_is_refused(tmp_path, columns, reason):
    path = write_hub(tmp_path) / "data" / "test-00000-of-00001.parquet"
    parquet.write_table(Table.from_pydict(columns), path)
    with pytest.raises(DataError, match=reason):
        Cifar10(folder=tmp_path).load()


def test_several_files_are_read_in_order(tmp_path):
    write_hub(tmp_path)
    path = tmp_path / "data" / "test-00001-of-00001.parquet"
    write_parquet(path, [encoded(IMAGES[0])], [7], TEN)
    test = Cifar10(folder=tmp_path).load().test
    assert test.labels.tolist() == [1, 2, 7]
    assert numpy.array_equal(test.images.numpy(), IMAGES[[10, 11, 0]])
    parquet.write_table(Table.from_pydict({"img": [b""], "label": ["x"]}), path)
    with pytest.raises(DataError, match="the other files of test hold different columns"):
        Cifar10(folder=tmp_path).load()


def test_images_of_different_sizes_are_refused(tmp_path):
    with pytest.raises(DataError, match="images of test differ in size"):
        Cifar10(folder=rewrite(tmp_path, [GOOD, encoded(noise(1, 9)[0])], [0, 1])).load()


def test_splits_with_different_class_names_are_refused(tmp_path):
    write_hub(tmp_path)
    path = tmp_path / "data" / "test-00000-of-00001.parquet"
    write_parquet(path, [GOOD], [0], TEN[::-1])
    with pytest.raises(DataError, match="train and test have different class names"):
        Cifar10(folder=tmp_path).load()


def in_memory(hundred: bool = False) -> datasets.DatasetDict:
    """What ``datasets.load_dataset`` gives for the hub's repository."""
    label = "fine_label" if hundred else "label"
    features = datasets.Features(
        {"img": datasets.Image(), label: datasets.ClassLabel(names=HUNDRED if hundred else TEN)}
    )
    marks = FINE if hundred else LABELS
    return datasets.DatasetDict(
        {
            part: datasets.Dataset.from_dict(
                {
                    "img": [{"bytes": encoded(image), "path": None} for image in IMAGES[rows]],
                    label: marks[rows].tolist(),
                },
                features=features,
            )
            for part, rows in (("train", slice(0, 6)), ("test", slice(6, 12)))
        }
    )


@pytest.mark.parametrize("hundred", [False, True])
def test_hub_is_used_without_a_folder(monkeypatch, hundred):
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *names: asked.append(names) or in_memory(hundred)
    )
    data = (Cifar100() if hundred else Cifar10(limit=4)).load()
    expected = ("uoft-cs/cifar100", "cifar100") if hundred else ("uoft-cs/cifar10", "plain_text")
    assert asked == [expected]
    assert numpy.array_equal(data.train.images.numpy(), IMAGES[: 6 if hundred else 4])
    assert numpy.array_equal(data.test.images.numpy(), IMAGES[6:])
    assert data.test.labels.tolist() == (FINE if hundred else LABELS)[6:].tolist()
    assert data.class_names == tuple(HUNDRED if hundred else TEN)


def test_unreachable_hub_is_refused_with_the_remedy(monkeypatch):
    def unreachable(*names):
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError, match=r"uoft-cs/cifar10: Couldn't reach.*--data FOLDER"):
        Cifar10().load()


def test_repository_without_a_test_split_is_refused(monkeypatch):
    data = in_memory()
    del data["test"]
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: data)
    with pytest.raises(DataError, match="has no split test; it has train"):
        Cifar10(hub="me/mine").load()


@pytest.mark.data
@pytest.mark.slow
def test_real_copy_is_read():
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"
    if not folder.is_dir():
        pytest.skip("shared/data/cifar10 is not there")
    data = Cifar10(folder=folder).load()
    assert (len(data.train), len(data.test)) == (50000, 10000)
    assert data.train.labels.bincount().tolist() == [5000] * 10
