"""A full disk: a small file system, if this user may mount one."""

import json
import os
import subprocess

import pytest
import tiny

from equipoise import load
from equipoise.api.train import train
from equipoise.runtime.errors import RunError
from equipoise.training.metrics import METRICS, metrics_log


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on a file system of 1,500 kB, and a function that enlarges it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except OSError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("this user may not mount file systems")

    def grow() -> None:
        remount = ["mount", "-o", "remount,size=30m", str(disk)]
        subprocess.run(remount, check=True, capture_output=True)

    yield disk, grow
    subprocess.run(["umount", "-l", str(disk)], check=True, capture_output=True)


@pytest.mark.slow
def test_a_full_disk_stops_training_with_the_remedy_and_no_loss(small_disk, tmp_path):
    disk, grow = small_disk
    data, recipe = tiny.digits(), tiny.recipe("afa_digits")
    whole = train(recipe, tmp_path / "whole", dataset=data)
    with pytest.raises(RunError, match=r"No space left on device.*Free some space.*--resume"):
        train(recipe, disk / "run", dataset=data)
    assert os.statvfs(disk).f_bfree * os.statvfs(disk).f_bsize < 1_000_000
    stages = disk / "run" / "stages"
    assert list(stages.rglob("checkpoint*")), "it stopped before anything was saved"
    assert not list(stages.rglob("*.part"))
    grow()
    resumed = train(recipe, disk / "run", dataset=data, resume=True)
    assert tiny.same(tiny.weights(resumed), tiny.weights(whole))
    assert tiny.same(tiny.weights(load(disk / "run")), tiny.weights(whole))


def test_the_error_for_curves_on_a_full_disk_names_the_file(small_disk):
    disk, grow = small_disk
    with metrics_log(disk / "stage", 0) as log:
        log({"epoch": 0, "train": {"loss": 1.0}})
        with (disk / "filler").open("wb") as file, pytest.raises(OSError, match="No space left"):
            file.write(bytes(2_000_000))
        entry = {"epoch": 1, "train": {"loss": 1.0}, "note": "x" * 5000}
        with pytest.raises(RunError, match=r"cannot write .*No space left.*--resume"):
            log(entry)
    refused = pytest.raises(RunError, match=r"cannot write .*No space left")
    with metrics_log(disk / "another", 0) as log, refused:
        log(entry)
    grow()
    with metrics_log(disk / "stage", 1) as log:
        log({"epoch": 1, "train": {"loss": 0.5}})
    lines = (disk / "stage" / METRICS).read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1]
