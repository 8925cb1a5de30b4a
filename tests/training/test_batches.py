import json
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from tiny import ATTACK, LOOP, SCHEDULE, fit_stage, linear, one_stage, recipe, split

from equipoise.data import Augmentation, DataError
from equipoise.methods.single_network import NetworkTask
from equipoise.objectives import Standard
from equipoise.recipes import from_json, to_json
from equipoise.training import ExtraImages, TrainingConfig
from equipoise.training.batches import TrainingBatches


def write(path: Path, count: int = 30, save=numpy.savez, **arrays) -> Path:
    """Write an .npz whose image i is filled with i, with labels of two classes."""
    image = numpy.arange(count, dtype=numpy.uint8)[:, None, None, None]
    defaults = {
        "image": numpy.broadcast_to(image, (count, 8, 8, 1)),
        "label": numpy.arange(count) % 2,
    }
    save(path, **{k: v for k, v in (defaults | arrays).items() if v is not None})
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "extra.npz")


@pytest.mark.parametrize("save", [numpy.savez, numpy.savez_compressed])
def test_images_are_read_channels_last_and_become_floats(tmp_path, save):
    colours = numpy.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=numpy.uint8)
    labels = numpy.array([4, 3, 2, 1, 0], dtype=numpy.uint8)
    path = write(tmp_path / "extra.npz", save=save, image=colours, label=labels)
    like = replace(split(), images=torch.zeros(32, 3, 4, 6, dtype=torch.uint8))
    extra = ExtraImages.read(path, like)
    images, classes = extra.batch(torch.tensor([3, 0, 3]))
    assert images.shape == (3, 3, 4, 6)
    assert images.dtype == torch.float32
    expected = torch.from_numpy(colours).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(images, expected[[3, 0, 3]])
    assert classes.tolist() == [1, 4, 1]
    assert classes.dtype == torch.int64
    assert len(extra) == 5


def test_an_uncompressed_file_is_mapped_and_a_compressed_one_is_read(tmp_path):
    mapped = ExtraImages.read(write(tmp_path / "a.npz"), split(classes=2)).images
    read = ExtraImages.read(
        write(tmp_path / "b.npz", save=numpy.savez_compressed), split(classes=2)
    ).images
    assert isinstance(mapped, numpy.memmap)
    assert not isinstance(read, numpy.memmap)
    assert numpy.array_equal(mapped, read)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.npz does not exist; set loop.extra"):
        ExtraImages.read(tmp_path / "nowhere.npz", split())


@pytest.mark.parametrize(("lacking", "has"), [("image", "label"), ("label", "image")])
def test_a_file_without_images_or_labels_is_refused(tmp_path, lacking, has):
    with pytest.raises(DataError, match=rf"lacks the array {lacking}; it has \['{has}'\]"):
        ExtraImages.read(write(tmp_path / "extra.npz", **{lacking: None}), split())


class Trap:
    """Fails the test when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


@pytest.mark.parametrize("array", ["image", "label"])
def test_pickled_arrays_are_refused_and_not_loaded(tmp_path, array):
    objects = numpy.empty(30, dtype=object)
    objects[:] = [Trap()] * 30
    path = write(tmp_path / "extra.npz", **{array: objects})
    with pytest.raises(DataError, match=r"cannot be read as an .npz of plain arrays.*pickled"):
        ExtraImages.read(path, split())


def test_a_bare_pickle_is_refused_and_not_loaded(tmp_path):
    import pickle

    path = tmp_path / "extra.npz"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match=r"cannot be read as an .npz"):
        ExtraImages.read(path, split())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_truncated_file_is_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"cannot be read as an .npz"):
        ExtraImages.read(path, split())


@pytest.mark.parametrize(
    "image",
    [
        numpy.zeros((30, 8, 8, 1), dtype=numpy.float32),
        numpy.zeros((30, 1, 8, 8), dtype=numpy.uint8),
        numpy.zeros((30, 8, 8, 3), dtype=numpy.uint8),
        numpy.zeros((30, 8, 8), dtype=numpy.uint8),
    ],
)
def test_images_of_another_shape_or_type_are_refused(tmp_path, image):
    with pytest.raises(DataError, match=r"image must be uint8 of shape \(n, 8, 8, 1\).*got"):
        ExtraImages.read(write(tmp_path / "extra.npz", image=image), split())


@pytest.mark.parametrize(
    "label", [numpy.zeros(30), numpy.zeros(29, dtype=int), numpy.zeros((30, 2), dtype=int)]
)
def test_labels_of_another_type_or_shape_are_refused(tmp_path, label):
    with pytest.raises(DataError, match=r"label must be whole numbers, one for each of the 30"):
        ExtraImages.read(write(tmp_path / "extra.npz", label=label), split())


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="at least one"):
        ExtraImages.read(write(tmp_path / "extra.npz", count=0), split())


@pytest.mark.parametrize("wrong", [-1, 10])
def test_labels_out_of_range_are_refused(tmp_path, wrong):
    label = numpy.array([0, wrong] * 15)
    with pytest.raises(DataError, match=r"labels must be in \[0, 10\).*got"):
        ExtraImages.read(write(tmp_path / "extra.npz", label=label), split())


def source(path, **changes) -> TrainingBatches:
    train = split(64, classes=2)
    train = replace(train, images=train.images.clamp_min(40))  # extra images are 30 and darker
    return TrainingBatches(train, replace(LOOP, extra=path, **changes))


@pytest.mark.parametrize(("share", "extra"), [(0.01, 1), (0.5, 8), (0.7, 11), (0.99, 15)])
def test_a_batch_holds_the_share_of_extra_images_with_their_labels(path, share, extra):
    batches = source(path, extra_share=share)
    assert batches.per_epoch == 4  # as many as without extra images
    generator = torch.Generator().manual_seed(0)
    images, labels = batches.batch(batches.order(generator), 0, generator)
    assert (images.shape, labels.shape) == ((16, 1, 8, 8), (16,))
    levels = (images * 255).round().long()
    foreign = levels.amax(dim=(1, 2, 3)) < 40
    assert int(foreign.sum()) == extra
    assert torch.equal(levels[foreign][:, 0, 0, 0] % 2, labels[foreign])
    if extra == 8:  # neither kind has the first rows to itself
        assert foreign[:8].any()
        assert not foreign[:8].all()


def test_an_epoch_repeats_no_training_image_and_the_next_one_has_a_different_share(path):
    batches = source(path, extra_share=0.5)
    generator = torch.Generator().manual_seed(0)
    epochs = []
    for _ in range(2):
        order = batches.order(generator)
        rows = [batches.batch(order, number, generator)[0] for number in range(4)]
        training = [row for row in torch.cat(rows) if float(row.max()) * 255 >= 40]
        epochs.append({row.numpy().tobytes() for row in training})
    assert [len(epoch) for epoch in epochs] == [32, 32]
    assert epochs[0] != epochs[1]


def test_extra_images_are_augmented_too(tmp_path):
    bright = numpy.full((30, 8, 8, 1), 255, dtype=numpy.uint8)
    path = write(tmp_path / "extra.npz", image=bright)
    batches = source(path, augmentation=Augmentation(shift=2), extra_share=0.9)
    generator = torch.Generator().manual_seed(0)
    images, _ = batches.batch(batches.order(generator), 0, generator)
    assert bool(((images == 0) | (images == 1)).flatten(1).all(dim=1).sum() >= 10)
    assert bool((images == 0).any())


def test_training_learns_from_extra_images(tmp_path):
    """Labels of the training images are noise; only the extra images teach dark from bright."""
    bright = numpy.arange(200) % 2
    image = numpy.broadcast_to(
        (bright * 200).astype(numpy.uint8)[:, None, None, None], (200, 8, 8, 1)
    )
    path = write(tmp_path / "extra.npz", image=image, label=bright)
    task = NetworkTask(linear(2), Standard(), 0.0, ATTACK, "Linf")
    of = one_stage(lambda: linear(2), schedule=replace(SCHEDULE, epochs=4))
    loop = replace(LOOP, extra=path, extra_share=0.9)
    summary = fit_stage(of, task, tmp_path / "run", train=split(64, classes=2), loop=loop)
    assert summary["best_score"] == 1.0


def test_extra_images_need_batches_of_two_or_more(path):
    with pytest.raises(DataError, match="no room for extra images; raise batch_size"):
        source(path, batch_size=1)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_extra_shares_of_zero_and_one_are_refused(share):
    with pytest.raises(ValueError, match="extra_share must be between 0 and 1, got"):
        TrainingConfig(extra_share=share)


def test_a_recipe_with_extra_images_round_trips_through_json(path):
    with_extra = recipe()
    with_extra = replace(
        with_extra, loop=replace(with_extra.loop, extra=path, averaging="ema", awp_gamma=0.01)
    )
    assert from_json(json.loads(json.dumps(to_json(with_extra)))) == with_extra
