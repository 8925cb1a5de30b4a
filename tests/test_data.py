import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional

from equipoise.data import Augmentation, Cifar10, DataError, Digits, Split

NAMES = ["airplane", "bird", "cat"]


def pixels(count: int = 4) -> torch.Tensor:
    return torch.zeros(count, 1, 8, 8, dtype=torch.uint8)


def numbered(count: int = 50) -> Split:
    """Image i is filled with i and has label i."""
    values = torch.arange(count)
    images = values.to(torch.uint8)[:, None, None, None].expand(count, 1, 8, 8).contiguous()
    return Split(images=images, labels=values, classes=count)


def unchecked(**fields: object) -> None:
    """Split's own rules alone: in tests, the checked annotations refuse some mistakes before."""
    split = object.__new__(Split)
    for name, value in fields.items():
        object.__setattr__(split, name, value)
    split.__post_init__()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_digits_are_1347_and_450_images_of_ten_classes():
    digits = Digits().load()
    assert (len(digits.train), len(digits.test)) == (1347, 450)
    assert digits.train.images.dtype == torch.uint8
    assert digits.train.images.shape[1:] == (1, 8, 8)
    assert (digits.channels, digits.classes) == (1, 10)
    assert digits.train.labels.unique().tolist() == list(range(10))
    assert int(digits.train.images.max()) == 255  # grey level 16 is white


def test_the_test_part_of_digits_is_the_same_at_every_load():
    first, second = Digits().load(), Digits().load()
    assert torch.equal(first.test.images, second.test.images)
    assert torch.equal(first.test.labels, second.test.labels)


def test_a_batch_is_float_in_the_unit_interval_and_leaves_the_split_alone():
    split = numbered(256)
    images, labels = split.batch(slice(None))
    assert images.dtype == torch.float32
    assert torch.equal(images[:, 0, 0, 0], torch.arange(256) / 255)
    assert torch.equal(labels, split.labels)
    assert int(split.images.max()) == 255


def test_holding_out_parts_the_images_and_keeps_each_with_its_label():
    kept, held = numbered().hold_out(12, seed=1)
    assert (len(kept), len(held)) == (38, 12)
    assert sorted([*kept.labels.tolist(), *held.labels.tolist()]) == list(range(50))
    for part in (kept, held):
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.labels)


def test_what_is_held_out_depends_on_the_seed_alone():
    first, again, other = (numbered().hold_out(12, seed)[1].labels for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("count", [0, 50, 51])
def test_holding_out_nothing_or_everything_is_refused(count):
    with pytest.raises(DataError, match=r"between 1 and 49, got .*validation_images"):
        numbered().hold_out(count, seed=0)


@pytest.mark.parametrize("wrong", [-1, 10])
def test_labels_out_of_range_are_refused(wrong):
    with pytest.raises(DataError, match=r"labels must be in \[0, 10\), got"):
        Split(images=pixels(), labels=torch.tensor([0, 1, wrong, 2]), classes=10)


def test_an_empty_split_is_refused():
    with pytest.raises(DataError, match="at least one image"):
        Split(images=pixels(0), labels=torch.zeros(0, dtype=torch.long), classes=10)


def test_images_that_are_not_uint8_are_refused():
    with pytest.raises(DataError, match=r"images must be uint8 .* got torch.float32"):
        unchecked(images=pixels().float(), labels=torch.zeros(4, dtype=torch.long), classes=10)


def test_images_without_a_channel_axis_are_refused():
    with pytest.raises(DataError, match=r"of shape \(4, 8, 8\)"):
        unchecked(images=pixels()[:, 0], labels=torch.zeros(4, dtype=torch.long), classes=10)


def test_labels_that_are_not_whole_numbers_are_refused():
    with pytest.raises(DataError, match="labels must be"):
        unchecked(images=pixels(), labels=torch.zeros(4), classes=10)


def test_another_number_of_labels_than_images_is_refused():
    with pytest.raises(DataError, match="4 images have 3 labels"):
        unchecked(images=pixels(), labels=torch.zeros(3, dtype=torch.long), classes=10)


def test_without_shift_and_flip_augmentation_is_the_identity():
    images = torch.rand(5, 3, 8, 8, generator=generator())
    assert torch.equal(Augmentation()(images, generator()), images)


def test_a_flip_mirrors_about_half_of_the_images_left_to_right():
    images = torch.rand(200, 1, 4, 4, generator=generator())
    found = Augmentation(flip=True)(images, generator(1))
    kept = (found == images).flatten(1).all(dim=1)
    mirrored = (found == images.flip(3)).flatten(1).all(dim=1)
    assert bool((kept ^ mirrored).all())
    assert 70 < int(mirrored.sum()) < 130


@pytest.mark.parametrize(("padding", "mode"), [("zeros", "constant"), ("reflect", "reflect")])
def test_a_shifted_image_is_one_of_the_crops_of_itself_and_all_crops_occur(padding, mode):
    images = torch.rand(300, 2, 5, 6, generator=generator())
    found = Augmentation(shift=1, padding=padding)(images, generator(1))
    padded = functional.pad(images, [1] * 4, mode=mode)
    crops = [padded[:, :, r : r + 5, c : c + 6] for r in range(3) for c in range(3)]
    hits = torch.stack([(crop == found).flatten(1).all(dim=1) for crop in crops])
    assert bool((hits.sum(dim=0) == 1).all())
    assert int(hits.sum(dim=1).min()) > 15  # of 33 expected for each of the nine places


def test_zeros_leave_a_black_border_and_reflection_does_not():
    white = torch.ones(50, 1, 8, 8)
    assert float(Augmentation(shift=2, padding="zeros")(white, generator()).min()) == 0
    assert float(Augmentation(shift=2, padding="reflect")(white, generator()).min()) == 1


def test_augmentation_never_mixes_images():
    images, _ = numbered(50).batch(slice(None))
    found = Augmentation(shift=3, padding="reflect", flip=True)(images, generator())
    assert torch.equal(found, images)


def test_augmentation_depends_on_the_generator_alone():
    images = torch.rand(20, 1, 8, 8, generator=generator())
    augmentation = Augmentation(shift=2, flip=True)
    first, again, other = (augmentation(images, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def encoded(value: int, coding: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 255)).save(stream, format=coding)
    return stream.getvalue()


def write_part(folder: Path, part: str, images: list[bytes], labels: list[int], **columns) -> Path:
    """A file in the layout of the hub's uoft-cs/cifar10."""
    from datasets import ClassLabel, Features
    from datasets import Image as ImageFeature
    from pyarrow import Table, parquet

    features = Features({"img": ImageFeature(), "label": ClassLabel(names=NAMES)})
    rows = {"img": [{"bytes": image, "path": None} for image in images], "label": labels}
    table = Table.from_pydict(rows, schema=features.arrow_schema)
    for old, new in columns.items():
        table = table.rename_columns([new if name == old else name for name in table.column_names])
    path = folder / "data" / f"{part}-00000-of-00001.parquet"
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(table, path)
    return path


@pytest.fixture
def folder(tmp_path):
    write_part(tmp_path, "train", [encoded(v) for v in (0, 80, 160, 240)], [0, 1, 2, 0])
    write_part(tmp_path, "test", [encoded(40), encoded(50)], [1, 2])
    return tmp_path


def test_cifar10_reads_the_hubs_layout(folder):
    found = Cifar10(folder=folder).load()
    assert (found.name, found.class_names) == ("cifar10", tuple(NAMES))
    assert found.train.images.shape == (4, 3, 8, 8)
    assert found.train.images[:, :, 0, 0].tolist() == [[v, 0, 255] for v in (0, 80, 160, 240)]
    assert found.train.labels.tolist() == [0, 1, 2, 0]
    assert found.test.labels.tolist() == [1, 2]


def test_cifar10_from_jpeg_images_has_a_name_of_its_own(tmp_path):
    write_part(tmp_path, "train", [encoded(9, "JPEG")], [0])
    write_part(tmp_path, "test", [encoded(9, "JPEG")], [0])
    assert Cifar10(folder=tmp_path).load().name == "cifar10-jpeg"


def test_cifar10s_limit_cuts_the_training_part_alone(folder):
    found = Cifar10(folder=folder, limit=2).load()
    assert (len(found.train), len(found.test)) == (2, 2)
    assert found.classes == 3


def test_cifar10_without_a_folder_says_which_flag_gives_one():
    with pytest.raises(DataError, match="--data FOLDER"):
        Cifar10().load()


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere holds no data/train-\*.parquet"):
        Cifar10(folder=tmp_path / "nowhere").load()


def test_a_folder_without_a_test_part_is_refused(folder):
    (folder / "data" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"holds no data/test-\*.parquet"):
        Cifar10(folder=folder).load()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_parquet_file_is_refused(folder, share):
    path = folder / "data" / "train-00000-of-00001.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"train-00000-of-00001.parquet cannot be read as parquet"):
        Cifar10(folder=folder).load()


def test_a_missing_column_is_refused_by_name(tmp_path):
    write_part(tmp_path, "train", [encoded(0)], [0], img="image")
    with pytest.raises(DataError, match=r"lacks the column img; it has \['image', 'label'\]"):
        Cifar10(folder=tmp_path).load()


@pytest.mark.parametrize("content", [b"", b"not an image", encoded(7)[:40]])
def test_a_broken_image_is_refused_by_its_number(folder, content):
    write_part(folder, "test", [encoded(40), content], [1, 2])
    with pytest.raises(DataError, match="image 1 of test is broken"):
        Cifar10(folder=folder).load()


def test_a_missing_label_is_refused(folder):
    write_part(folder, "test", [encoded(40), encoded(50)], [1, None])
    with pytest.raises(DataError, match="label"):
        Cifar10(folder=folder).load()


def test_a_part_without_rows_is_refused(folder):
    write_part(folder, "test", [], [])
    with pytest.raises(DataError, match="image"):
        Cifar10(folder=folder).load()


def test_images_of_different_sizes_are_refused(folder):
    stream = io.BytesIO()
    Image.new("RGB", (9, 8)).save(stream, format="PNG")
    write_part(folder, "train", [encoded(0), stream.getvalue()], [0, 1])
    with pytest.raises(DataError, match="images of train differ in size"):
        Cifar10(folder=folder).load()
