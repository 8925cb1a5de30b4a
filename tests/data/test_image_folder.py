from dataclasses import replace

import numpy
import pytest
import torch
from writers import announced_png, encoded, noise, write_images

from equipoise.data import DataError, ImageFolder

IMAGES = noise(12, 8)


def with_parts(root, test="test", train="train"):
    """Two classes; image i of IMAGES is in train for i < 8, and class i % 2."""
    return write_images(
        root,
        {
            f"{train if number < 8 else test}/{'cat' if number % 2 else 'ape'}/{number:02d}": one
            for number, one in enumerate(IMAGES)
        },
    )


def of_classes(root, counts, **changes):
    images = iter(noise(sum(counts.values()), 8))
    named = {
        f"{name}/{n:02d}": next(images) for name, count in counts.items() for n in range(count)
    }
    return ImageFolder(folder=write_images(root, named), **changes)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("train", "val"),
        ("train", "validation"),
        ("Train", "Test"),
        ("training", "testing"),
        ("TRAIN", "valid"),
    ],
)
def test_training_and_test_folders_are_read_exactly(tmp_path, train, test):
    data = ImageFolder(folder=with_parts(tmp_path / "pets", test, train)).load()
    assert (data.name, data.class_names, data.notes) == ("pets", ("ape", "cat"), ())
    assert numpy.array_equal(data.train.images.numpy(), IMAGES[[0, 2, 4, 6, 1, 3, 5, 7]])
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4
    assert numpy.array_equal(data.test.images.numpy(), IMAGES[[8, 10, 9, 11]])
    assert data.test.labels.tolist() == [0, 0, 1, 1]


def test_images_in_subfolders_belong_to_the_class(tmp_path):
    with_parts(tmp_path)
    write_images(tmp_path, {"train/cat/young/white/99": IMAGES[0]})
    assert ImageFolder(folder=tmp_path).load().train.labels.tolist() == [0] * 4 + [1] * 5


def test_test_images_are_selected_from_every_class_by_the_seed(tmp_path):
    source = of_classes(tmp_path / "pets", {"a": 10, "b": 20, "c": 2}, test_share=0.3)
    data = source.load()
    assert data.test.labels.bincount().tolist() == [3, 5, 1]
    assert data.train.labels.bincount().tolist() == [7, 15, 1]
    rows = torch.cat([data.train.images, data.test.images]).flatten(1)
    assert len(rows.unique(dim=0)) == 32  # nothing twice, nothing lost
    assert "about 0.3 of each class was selected for testing" in data.summary()
    again = source.load()
    assert torch.equal(again.test.images, data.test.images)
    other = ImageFolder(folder=source.folder, test_share=0.3, split_seed=1).load()
    assert not torch.equal(other.test.images, data.test.images)


def test_adding_an_image_does_not_move_others_between_splits(tmp_path):
    source = of_classes(tmp_path / "pets", {"a": 30, "b": 30})
    before = source.load()
    write_images(source.folder, {"a/000": numpy.zeros((3, 8, 8), dtype=numpy.uint8)})
    after = source.load()
    for old, new in ((before.train, after.train), (before.test, after.test)):
        kept = {image.numpy().tobytes() for image in new.images}
        assert {image.numpy().tobytes() for image in old.images} <= kept


def test_each_split_has_an_image_of_every_class_at_any_share(tmp_path):
    source = of_classes(tmp_path / "pets", {"a": 5, "b": 5}, test_share=0.001)
    assert source.load().test.labels.bincount().tolist() == [1, 1]
    assert replace(source, test_share=0.999).load().train.labels.bincount().tolist() == [1, 1]


def test_single_training_folder_is_split(tmp_path):
    source = of_classes(tmp_path / "train", {"a": 5, "b": 5})
    data = ImageFolder(folder=source.folder.parent).load()
    assert (len(data.train), len(data.test), data.class_names) == (7, 3, ("a", "b"))


def test_size_brings_images_of_several_sizes_together(tmp_path):
    wide = numpy.zeros((3, 8, 16), dtype=numpy.uint8)
    wide[:, :, 4:12] = IMAGES[1]
    images = {"a/1": IMAGES[0], "a/2": IMAGES[2], "b/1": wide, "b/2": wide}
    folder = write_images(tmp_path / "pets", images)
    with pytest.raises(DataError, match=r"a/..png 8x8 and b/..png 8x16.*--dataset.size 32"):
        ImageFolder(folder=folder, test_share=0.5).load()
    data = ImageFolder(folder=folder, size=8, test_share=0.5).load()
    assert numpy.array_equal(data.train.images[1].numpy(), IMAGES[1])
    assert ImageFolder(folder=folder, size=5).load().train.images.shape[1:] == (3, 5, 5)
    grey = ImageFolder(folder=folder, size=8, grey=True).load()
    assert grey.channels == 1


def broken(tmp_path):
    folder = with_parts(tmp_path / "pets")
    (folder / "train" / "ape" / "00.png").write_bytes(b"not an image")
    (folder / "train" / "cat" / "03.png").write_bytes(announced_png(100_000, 100_000))
    (folder / "test" / "cat" / "09.png").write_bytes(encoded(IMAGES[9])[:100])
    return folder


def test_broken_images_are_refused_counted_and_named(tmp_path):
    with pytest.raises(DataError) as refusal:
        ImageFolder(folder=broken(tmp_path)).load()
    said = str(refusal.value)
    assert "3 of 12 images are broken (train/ape/00.png: it cannot be read" in said
    assert "train/cat/03.png: it cannot be read as an image (Image size (10000000000" in said
    assert "test/cat/09.png" in said
    assert "--dataset.on-broken skip" in said


def test_skipped_broken_images_are_counted_and_named(tmp_path):
    data = ImageFolder(folder=broken(tmp_path), on_broken="skip").load()
    assert numpy.array_equal(data.train.images.numpy(), IMAGES[[2, 4, 6, 1, 5, 7]])
    assert numpy.array_equal(data.test.images.numpy(), IMAGES[[8, 10, 11]])
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert "3 broken images were left out (train/ape/00.png: " in data.summary()


def test_folder_of_only_broken_images_is_refused(tmp_path):
    folder = with_parts(tmp_path / "pets")
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"no image can be decoded. train/ape/00.png: it cannot"):
        ImageFolder(folder=folder, on_broken="skip").load()


def test_other_files_and_unread_folders_are_noted(tmp_path):
    folder = with_parts(tmp_path / "pets")
    with_parts(tmp_path / "pets", "val")
    (folder / "readme.txt").touch()
    (folder / "train" / "cat" / "Thumbs.db").touch()
    (folder / "train" / ".DS_Store").touch()
    (folder / "train" / ".cache").mkdir()
    data = ImageFolder(folder=folder).load()
    assert len(data.train) == 8
    assert data.notes == (
        "2 files that are not images were left out",
        "the folder val was not read (test images: test)",
    )


def test_folders_beside_a_single_training_folder_are_noted(tmp_path):
    of_classes(tmp_path / "train", {"a": 5, "b": 5})
    write_images(tmp_path, {"other/1": IMAGES[0]})
    data = ImageFolder(folder=tmp_path).load()
    assert data.notes[0] == "the folder other was not read (test images: selected from train)"


def test_class_may_be_called_train(tmp_path):
    data = of_classes(tmp_path / "traffic", {"bus": 5, "car": 5, "train": 5}).load()
    assert data.class_names == ("bus", "car", "train")


@pytest.mark.parametrize(
    "images", [["test/a/1", "val/a/1"], ["a/1", "b/1", "Test/a/1"], ["train/1", "test/1"]]
)
def test_split_folders_are_not_taken_for_classes(tmp_path, images):
    write_images(tmp_path, dict(zip(images, IMAGES, strict=False)))
    with pytest.raises(DataError, match=r"but no training images\. .* rename .* if it is a class"):
        ImageFolder(folder=tmp_path).load()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda root: (root / "train" / "dog").mkdir(),
            r"train/dog must hold images, got none \(1 such",
        ),
        (lambda root: (root / "test" / "dog").mkdir(), "test/dog must hold images, got none"),
        (
            lambda root: write_images(root, {"test/dog/1": IMAGES[0]}),
            "test has the class 'dog', which train lacks",
        ),
    ],
)
def test_class_folders_that_do_not_match_are_refused(tmp_path, make, reason):
    make(with_parts(tmp_path))
    with pytest.raises(DataError, match=reason):
        ImageFolder(folder=tmp_path).load()


def test_single_class_or_class_of_one_image_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"at least two classes, got \['a'\]"):
        of_classes(tmp_path / "one", {"a": 3}).load()
    with pytest.raises(DataError, match=r"the class 'b' must have two images or more, .* got 1"):
        of_classes(tmp_path / "two", {"a": 3, "b": 1}).load()
    (tmp_path / "three").mkdir()
    with pytest.raises(DataError, match=r"at least two classes, got \[\]"):
        ImageFolder(folder=tmp_path / "three").load()


@pytest.mark.parametrize("folder", [None, "nowhere"])
def test_missing_folder_is_refused(tmp_path, folder):
    with pytest.raises(DataError, match="give --data FOLDER, which holds train/CLASS/"):
        ImageFolder(folder=folder and tmp_path / folder).load()


@pytest.mark.parametrize(
    ("field", "value"), [("size", 0), ("size", 5000), ("test_share", 0.0), ("test_share", 1.0)]
)
def test_numbers_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"{field} must be"):
        ImageFolder(**{field: value})
