import errno
import os
import pickle
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy
import pytest
import torch
from tiny import (
    ATTACK,
    SCHEDULE,
    AfterSteps,
    fabric,
    fit_stage,
    recipe,
    same,
    weights,
    wide_resnet,
)
from writers import noise, write_images

from equipoise.api.train import train
from equipoise.data import DataError, ImageFolder, MappedImages, cache
from equipoise.evaluation import images_hash
from equipoise.methods.single_network import network_stage
from equipoise.objectives import PGDAT
from equipoise.runtime.errors import RunError
from equipoise.runtime.signals import Interrupted


@pytest.fixture
def source(tmp_path):
    images = {f"{'ab'[n % 2]}/{n:02d}": one for n, one in enumerate(noise(40, 8, channels=1))}
    return ImageFolder(folder=write_images(tmp_path / "pets", images), grey=True)


@pytest.fixture
def mapped(source, monkeypatch):
    """The data set as one that is too large for memory."""
    monkeypatch.setattr(cache, "MAX_BYTES_IN_MEMORY", 100)
    return source.load()


def entries(tmp_path) -> list[str]:
    return sorted(path.suffix for path in (tmp_path / "cache").iterdir())


def test_images_are_decoded_once(source, tmp_path, monkeypatch):
    first = source.load()
    assert entries(tmp_path) == [".json", ".npy"]
    monkeypatch.setattr(cache, "decode", lambda *content, **settings: pytest.fail("decoded again"))
    assert torch.equal(source.load().train.images, first.train.images)


def test_changed_file_or_setting_is_decoded_again(source, tmp_path):
    source.load()
    path = source.folder / "a" / "00.png"
    write_images(source.folder, {"a/00": numpy.zeros((1, 8, 8), dtype=numpy.uint8)})
    os.utime(path, ns=(1, 1))
    found = source.load()
    assert not torch.cat([found.train.images, found.test.images]).flatten(1).any(dim=1).all()
    assert replace(source, size=4).load().train.images.shape[2:] == (4, 4)
    assert entries(tmp_path).count(".npy") == 3


def test_replaced_file_of_equal_size_and_time_is_decoded_again(source, tmp_path):
    source.load()
    path = source.folder / "a" / "00.png"
    found = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    source.load()
    assert entries(tmp_path).count(".npy") == 2


def test_unreadable_file_is_refused_and_read_again_next_time(source, tmp_path, monkeypatch):
    source = replace(source, on_broken="skip")
    opened = Path.open

    def fails(self, *mode, **rest):
        if self.name == "02.png":
            raise OSError(errno.EIO, "Input/output error")
        return opened(self, *mode, **rest)

    with monkeypatch.context() as failing:
        failing.setattr(Path, "open", fails)
        with pytest.raises(DataError, match=r"pets: a/02.png cannot be read \(.*output error"):
            source.load()
    assert entries(tmp_path) == []
    assert source.load().notes == replace(source, on_broken="refuse").load().notes


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_damaged_cache_is_written_again(source, tmp_path, share):
    first = source.load()
    (path,) = (tmp_path / "cache").glob("*.npy")
    cache.open_map.cache_clear()
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert torch.equal(source.load().train.images, first.train.images)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "no space left")])
def test_interrupted_write_leaves_nothing(source, tmp_path, monkeypatch, error):
    def fails(handle):
        raise error

    monkeypatch.setattr(cache.os, "fsync", fails)
    expected = DataError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as refusal:
        source.load()
    if expected is DataError:
        assert "no space left); free some space, or set EQUIPOISE_CACHE" in str(refusal.value)
    assert entries(tmp_path) == []


def test_cache_files_have_the_permissions_of_the_umask(source, tmp_path):
    before = os.umask(0o027)
    try:
        source.load()
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "cache").iterdir()}
    assert modes == {0o640}


def test_temporary_files_of_killed_processes_are_deleted_after_a_day(source, tmp_path):
    (tmp_path / "cache").mkdir()
    old, fresh = (tmp_path / "cache" / f".{name}.npy.x.part" for name in ("old", "fresh"))
    for path in (old, fresh):
        path.touch()
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    source.load()
    assert not old.exists()
    assert fresh.exists()


def test_cache_is_in_the_home_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("EQUIPOISE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "equipoise"


def test_mapped_images_behave_like_a_tensor(source, mapped, monkeypatch):
    monkeypatch.setattr(cache, "MAX_BYTES_IN_MEMORY", 2**30)
    whole = source.load().train
    train = mapped.train
    assert isinstance(whole.images, torch.Tensor)
    assert isinstance(train.images, MappedImages)
    assert (train.images.shape, train.images.dtype) == (tuple(whole.images.shape), torch.uint8)
    rows = torch.tensor([7, 0, 7, 31])
    for chosen in (rows, slice(3, 9), slice(None)):
        for one, other in zip(train.batch(chosen), whole.batch(chosen), strict=True):
            assert torch.equal(one, other)
    remaining, held = train.hold_out(5, seed=3)
    expected = whole.hold_out(5, seed=3)
    for part, other in zip((remaining, held), expected, strict=True):
        assert isinstance(part.to("cpu").images, MappedImages)
        assert torch.equal(part.to("cpu").batch(slice(None))[0], other.batch(slice(None))[0])
        assert images_hash(part) == images_hash(other)
    assert images_hash(whole.take(rows)) == images_hash(train.take(rows))


def test_only_the_rows_of_a_batch_are_read_and_copied(mapped, monkeypatch):
    from equipoise.data import memory_mapped as module

    row_counts = []
    opened = module.open_map

    class Recorder:
        def __init__(self, path):
            self.file = opened(path)

        @property
        def shape(self):
            return self.file.shape

        def __getitem__(self, rows):
            row_counts.append(len(rows))
            return self.file[rows]

    monkeypatch.setattr(module, "open_map", Recorder)
    remaining, _ = mapped.train.hold_out(4, seed=0)
    assert row_counts == []
    images, _ = remaining.to("cpu").take(slice(0, 20)).batch(torch.tensor([3, 1]))
    assert row_counts == [2]
    pixels = remaining.images[torch.tensor([0])]
    pixels.zero_()  # a copy: the file and what is read next do not change
    assert bool(remaining.images[torch.tensor([0])].any())
    assert len(images) == 2


def test_mapped_images_are_pickled_as_a_path(mapped):
    content = pickle.dumps(mapped.train)
    again = pickle.loads(content)
    assert torch.equal(again.batch(slice(None))[0], mapped.train.batch(slice(None))[0])
    assert b".npy" in content
    assert bytes(mapped.train.images[slice(0, 1)].numpy().tobytes()) not in content


def test_training_is_bit_identical_from_a_file_and_from_memory(
    source, mapped, tmp_path, monkeypatch
):
    monkeypatch.setattr(cache, "MAX_BYTES_IN_MEMORY", 2**30)
    found = []
    for number, data in enumerate((source.load(), mapped)):
        stage = network_stage(
            "network",
            lambda: wide_resnet(2),
            objective=PGDAT(),
            epsilon=0.1,
            attack=ATTACK,
            schedule=replace(SCHEDULE, epochs=1),
            norm="Linf",
        )
        task = stage.build({})
        fit_stage(
            stage, task, tmp_path / str(number), train=data.train, validation=data.test,
            fabric=fabric(),
        )  # fmt: skip
        found.append(weights(task))
    assert same(*found)


def test_deleted_cache_is_reported_unless_the_file_is_already_open(mapped):
    before = mapped.test.images[slice(None)]
    for path in mapped.test.images.path.parent.iterdir():
        path.unlink()
    assert torch.equal(mapped.test.images[slice(None)], before)  # still open
    cache.open_map.cache_clear()  # as in another process
    with pytest.raises(RunError, match=r"\.npy were deleted .*run the same command again"):
        mapped.test.batch(slice(0, 2))


def test_resumed_run_reports_missing_data_and_continues_when_it_is_back(tmp_path):
    images = {f"{'ab'[n % 2]}/{n:02d}": one for n, one in enumerate(noise(80, 8, channels=1))}
    folder = write_images(tmp_path / "pets", images)
    source = ImageFolder(folder=folder, grey=True)
    base = recipe()
    loop = replace(base.loop, batch_size=16, validation_images=16)
    changed = replace(base, dataset=source, loop=loop)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(changed, whole)
    killed = AfterSteps(5, partial(os.kill, os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        train(changed, cut, reporter=killed)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"pets"):
        train(changed, cut, resume=True)
    (tmp_path / "elsewhere").rename(folder)
    train(changed, cut, resume=True)
    bits = [(run / "model" / "model.safetensors").read_bytes() for run in (whole, cut)]
    assert bits[0] == bits[1]
