from pathlib import Path

import pytest

from equipoise.data import (
    SVHN,
    Cifar10,
    Cifar100,
    DataError,
    Digits,
    HuggingFace,
    ImageFolder,
    NpzFile,
    TinyImageNet,
    recognise,
)
from equipoise.data.formats import located


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (["cifar-10-batches-py/data_batch_1"], Cifar10()),
        (["cifar-10-python.tar.gz"], Cifar10()),
        (["cifar-100-binary/fine_label_names.txt"], Cifar100()),
        (["train_32x32.mat", "test_32x32.mat"], SVHN()),
        (["wnids.txt", "train/n01/images/1.JPEG", "val/val_annotations.txt"], TinyImageNet()),
        (["train/cat/1.png", "test/cat/2.png"], ImageFolder()),
        (["cat/1.png", "dog/2.jpg", "notes.txt"], ImageFolder()),
        (["1.png", "2.png", "labels.csv"], HuggingFace()),
        (["train/metadata.jsonl", "train/1.png"], HuggingFace()),
        (["data/train-00000.parquet"], HuggingFace()),
        (["train-000.tar", "train-001.tar"], HuggingFace()),
        (["dataset_dict.json", "train/data-00000-of-00001.arrow"], HuggingFace()),
        (["state.json", "dataset_info.json"], HuggingFace()),
    ],
)
def test_folders_are_recognised(tmp_path, names, source):
    assert recognise(touch(tmp_path, *names)) == located(source, tmp_path)


def test_files_are_recognised(tmp_path):
    touch(tmp_path, "my.npz", "my.tar", "cifar-10-python.tar.gz", "tiny-imagenet-200.zip")
    assert recognise(tmp_path / "my.npz") == NpzFile(path=tmp_path / "my.npz")
    assert recognise(tmp_path / "my.tar") == HuggingFace(folder=tmp_path / "my.tar")
    archive = tmp_path / "cifar-10-python.tar.gz"
    assert recognise(archive) == Cifar10(folder=archive)
    assert isinstance(recognise(tmp_path / "tiny-imagenet-200.zip"), TinyImageNet)


def test_settings_are_kept_where_the_format_is_the_same_or_has_them(tmp_path):
    classes = touch(tmp_path / "a", "cat/1.png", "dog/2.jpg")
    assert recognise(classes, ImageFolder(size=8)) == ImageFolder(folder=classes, size=8)
    table = touch(tmp_path / "b", "labels.csv")
    like = ImageFolder(size=8, grey=True, test_share=0.5)
    assert recognise(table, like) == HuggingFace(folder=table, size=8, grey=True)
    assert recognise(table, Cifar10(limit=3)) == HuggingFace(folder=table)


def test_parquet_files_and_unknown_folders_belong_to_a_published_data_set(tmp_path):
    parquet = touch(tmp_path / "a", "data/train-00000.parquet")
    assert recognise(parquet, Cifar10(limit=3)) == Cifar10(folder=parquet, limit=3)
    assert recognise(parquet, Digits()) == HuggingFace(folder=parquet)
    unknown = touch(tmp_path / "b", "readme.txt")
    assert recognise(unknown, SVHN()) == SVHN(folder=unknown)


def test_what_is_not_there_or_not_known_is_refused_with_the_formats(tmp_path):
    with pytest.raises(DataError, match=rf"none/deep does not exist \({tmp_path} does\); check"):
        recognise(tmp_path / "none" / "deep")
    touch(tmp_path, "1.png", "2.png")
    with pytest.raises(DataError, match=r"known format: .*labels.csv.*save_to_disk.*WebDataset"):
        recognise(tmp_path)
    with pytest.raises(DataError, match="Digits is not read from a folder; leave --data out"):
        located(Digits(), tmp_path)
