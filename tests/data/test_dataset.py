import pytest
import torch

from equipoise.data import DataError, DataSet, Digits, Split


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


def test_digits_are_1347_and_450_images_of_ten_classes():
    digits = Digits().load()
    assert (len(digits.train), len(digits.test)) == (1347, 450)
    assert digits.train.images.dtype == torch.uint8
    assert digits.train.images.shape[1:] == (1, 8, 8)
    assert (digits.channels, digits.classes) == (1, 10)
    assert digits.train.labels.unique().tolist() == list(range(10))
    assert int(digits.train.images.max()) == 255  # grey level 16 is white


def test_test_split_of_digits_is_the_same_at_every_load():
    first, second = Digits().load(), Digits().load()
    assert torch.equal(first.test.images, second.test.images)
    assert torch.equal(first.test.labels, second.test.labels)


def test_batch_is_float_in_the_unit_interval_and_does_not_change_the_split():
    split = numbered(256)
    images, labels = split.batch(slice(None))
    assert images.dtype == torch.float32
    assert torch.equal(images[:, 0, 0, 0], torch.arange(256) / 255)
    assert torch.equal(labels, split.labels)
    assert int(split.images.max()) == 255


def test_hold_out_divides_the_images_and_keeps_their_labels():
    remaining, held_out = numbered().hold_out(12, seed=1)
    assert (len(remaining), len(held_out)) == (38, 12)
    assert sorted([*remaining.labels.tolist(), *held_out.labels.tolist()]) == list(range(50))
    for part in (remaining, held_out):
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.labels)


def test_first_takes_the_first_images_of_mixed_classes():
    digits = Digits().load().test
    few = digits.first(30)
    assert torch.equal(few.images, digits.images[:30])
    assert torch.equal(few.labels, digits.labels[:30])
    assert len(digits.first(10_000)) == 450


@pytest.mark.parametrize(("count", "rows"), [(1, [0]), (4, [0, 2, 5, 7]), (10, list(range(10)))])
def test_first_takes_evenly_spaced_images_of_sorted_classes(count, rows):
    assert numbered(10).first(count).images[:, 0, 0, 0].tolist() == rows


@pytest.mark.parametrize("count", [0, -5])
def test_first_refuses_less_than_one_image(count):
    with pytest.raises(DataError, match=rf"images must be 1 or more, got {count}"):
        numbered().first(count)


def test_hold_out_depends_only_on_the_seed():
    first, again, other = (numbered().hold_out(12, seed)[1].labels for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("count", [0, 50, 51])
def test_holding_out_nothing_or_everything_is_refused(count):
    with pytest.raises(DataError, match=r"hold out must be between 1 and 49, got"):
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


def test_int32_labels_become_int64():
    labels = torch.tensor([0, 1, 2, 3], dtype=torch.int32)
    assert (
        Split(images=pixels(), labels=labels, classes=4).batch(slice(None))[1].dtype == torch.long
    )


def test_different_numbers_of_images_and_labels_are_refused():
    with pytest.raises(DataError, match="one label per image, got 4 images and 3 labels"):
        unchecked(images=pixels(), labels=torch.zeros(3, dtype=torch.long), classes=10)


def data_set(counts, side=8, channels=1, **changes) -> DataSet:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    images = torch.zeros(len(labels), channels, side, side, dtype=torch.uint8)
    part = Split(images=images, labels=labels, classes=len(counts))
    fields = {"test": part.take(slice(0, 3)), "class_names": ("cat", "dog", "emu")[: len(counts)]}
    return DataSet(name="pets", train=part, **(fields | changes))


def test_summary_is_one_line_with_counts_and_sizes():
    assert data_set([1000, 1200, 1500], channels=3).summary() == (
        "pets: 3,700 training and 3 test images, 8x8, 3 channels; 3 classes of 1,000 (cat) to "
        "1,500 (emu) training images."
    )
    assert data_set([2, 2]).summary().endswith("8x8, grey; 2 classes of 2 training images.")


def test_summary_warns_of_imbalanced_classes_and_ends_with_the_notes():
    assert "imbalanced" not in data_set([10, 20]).summary()
    assert "; imbalanced: look at the accuracy of each class." in data_set([10, 21]).summary()
    absent = data_set([5, 0, 5], notes=("two cats were left out",)).summary()
    assert "3 classes of 0 (dog) to 5 (cat) training images; imbalanced" in absent
    assert absent.endswith("class; two cats were left out.")
