"""A disk that is really full: a small file system of its own, where we may mount one."""

import json
import os
import subprocess

import pytest
import tiny

from equipoise import load
from equipoise.runtime.errors import RunError
from equipoise.training.metrics import METRICS, metrics_log
from equipoise.workflows.train import train


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 1,500 kB, and a function that makes it larger."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except OSError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip("mounting a small file system needs more rights than there are here")

    def grow() -> None:
        remount = ["mount", "-o", "remount,size=30m", str(place)]
        subprocess.run(remount, check=True, capture_output=True)

    yield place, grow
    subprocess.run(["umount", "-l", str(place)], check=True, capture_output=True)


def test_full_disk_stops_training_with_the_remedy_and_loses_nothing(small_disk, tmp_path):
    place, grow = small_disk
    data, recipe = tiny.digits(), tiny.recipe("afa_digits")
    whole = train(recipe, tmp_path / "whole", dataset=data)
    with pytest.raises(RunError, match=r"No space left on device.*Free some space.*--resume"):
        train(recipe, place / "run", dataset=data)
    assert os.statvfs(place).f_bfree * os.statvfs(place).f_bsize < 1_000_000
    stages = place / "run" / "stages"
    assert list(stages.rglob("checkpoint*")), "it stopped before anything was saved"
    assert not list(stages.rglob("*.part"))
    grow()
    resumed = train(recipe, place / "run", dataset=data, resume=True)
    assert tiny.same(tiny.weights(resumed), tiny.weights(whole))
    assert tiny.same(tiny.weights(load(place / "run")), tiny.weights(whole))


def test_metrics_on_a_full_disk_are_refused_with_the_file_name(small_disk):
    place, grow = small_disk
    with metrics_log(place / "stage", 0) as log:
        log({"epoch": 0, "train": {"loss": 1.0}})
        with (place / "filler").open("wb") as file, pytest.raises(OSError, match="No space left"):
            file.write(bytes(2_000_000))
        entry = {"epoch": 1, "train": {"loss": 1.0}, "note": "x" * 5000}
        with pytest.raises(RunError, match=r"cannot write .*No space left.*--resume"):
            log(entry)
    with pytest.raises(RunError, match=r"cannot write .*No space left"):
        metrics_log(place / "another", 0).__enter__()
    grow()
    with metrics_log(place / "stage", 1) as log:
        log({"epoch": 1, "train": {"loss": 0.5}})
    lines = (place / "stage" / METRICS).read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1]
