import datasets
import numpy
import pytest
from writers import encoded, noise, write_images, write_parquet

from equipoise.data import DataError, TinyImageNet, archives

IDS = ["n02", "n01", "n03"]  # as wnids.txt has them: not sorted
IMAGES = noise(9, 8)
LABELS = [1, 1, 0, 0, 2, 2, 2, 0, 1]  # in sorted order of the ids


def write(root):
    images = {}
    for number, label in enumerate(LABELS[:6]):
        each = sorted(IDS)[label]
        images[f"train/{each}/images/{each}_{number}"] = IMAGES[number]
    lines = []
    for number in (6, 7, 8):
        images[f"val/images/val_{number}"] = IMAGES[number]
        lines.append(f"val_{number}.png\t{sorted(IDS)[LABELS[number]]}\t0\t0\t7\t7\n")
    images["test/images/test_0"] = IMAGES[0]
    write_images(root, images)
    (root / "wnids.txt").write_text("\n".join(IDS) + "\n")
    (root / "words.txt").write_text("n01\tgoldfish\nn02\tcrane\nn03\tcrane\nn04\tother\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def check(data, names=("goldfish", "n02", "n03")):
    assert (data.name, data.class_names) == ("tiny-imagenet", names)
    order = numpy.argsort(LABELS[:6], kind="stable")  # paths are sorted by class
    assert numpy.array_equal(data.train.images[:].numpy(), IMAGES[:6][order])
    assert data.train.labels.tolist() == sorted(LABELS[:6])
    assert numpy.array_equal(data.test.images[:].numpy(), IMAGES[6:])
    assert data.test.labels.tolist() == LABELS[6:]


def pack(root, path):
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                archive.write(file, f"tiny-imagenet-200/{file.relative_to(root)}")
    return path


@pytest.mark.parametrize("layout", ["folder", "around", "zip", "around the zip"])
def test_every_original_layout_is_read(tmp_path, layout, monkeypatch):
    root = write(tmp_path / "tiny-imagenet-200")
    if layout in ("folder", "around"):
        check(TinyImageNet(folder=root if layout == "folder" else tmp_path).load())
        return
    monkeypatch.delitem(archives.PUBLISHED, "tiny-imagenet-200.zip")
    (tmp_path / "packed").mkdir()
    path = pack(root, tmp_path / "packed" / "tiny-imagenet-200.zip")
    check(TinyImageNet(folder=path if layout == "zip" else path.parent).load())


def test_altered_archive_is_refused(tmp_path):
    pack(write(tmp_path / "a"), tmp_path / "tiny-imagenet-200.zip")
    with pytest.raises(DataError, match="the published one is 90528d7ca1a48142e341f4ef8d21d0de"):
        TinyImageNet(folder=tmp_path).load()


def test_parquet_files_and_the_hub_are_read(tmp_path, monkeypatch):
    order = numpy.argsort(LABELS[:6], kind="stable").tolist()
    copies = {}
    for part, rows in (("train", order), ("valid", [6, 7, 8])):
        path = tmp_path / "data" / f"{part}-00000-of-00001.parquet"
        images, labels = [encoded(IMAGES[row]) for row in rows], [LABELS[row] for row in rows]
        write_parquet(path, images, labels, sorted(IDS), image="image")
        copies[part] = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "arrow"))
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: datasets.DatasetDict(copies))
    for source in (TinyImageNet(folder=tmp_path), TinyImageNet()):
        check(source.load(), names=("n01", "n02", "n03"))
    write_parquet(path, [encoded(IMAGES[6]), b"broken"], [0, 1], sorted(IDS), image="image")
    with pytest.raises(DataError, match="image 1 of valid is broken"):
        TinyImageNet(folder=tmp_path).load()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda root: (root / "wnids.txt").unlink(), "lacks the file wnids.txt"),
        (
            lambda root: (root / "val" / "val_annotations.txt").unlink(),
            "lacks the file val/val_ann",
        ),
        (
            lambda root: (root / "val" / "images" / "val_7.png").unlink(),
            r"names val_7.png of class 'n01', but",
        ),
        (
            lambda root: (root / "val" / "val_annotations.txt").write_text("val_6.png\tn09\t0\n"),
            "names val_6.png of class 'n09', but there is no such image or class",
        ),
        (
            lambda root: (root / "val" / "val_annotations.txt").write_text("../x.png\tn01\n"),
            "no such image or class",
        ),
        (
            lambda root: (root / "wnids.txt").write_text("n01\nn05\n"),
            "train/n05/images must hold images",
        ),
        (
            lambda root: (root / "val" / "images" / "val_7.png").write_bytes(b"x"),
            r"1 of 9 images are broken \(val/images/val_7.png: it cannot be read as an image",
        ),
    ],
)
def test_damage_is_refused_by_name(tmp_path, damage, reason):
    damage(write(tmp_path / "tiny"))
    with pytest.raises(DataError, match=reason):
        TinyImageNet(folder=tmp_path / "tiny").load()
