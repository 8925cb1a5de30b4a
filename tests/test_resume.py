"""Runs killed at many points; the resumed run must be bit-identical to an uninterrupted one."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy
import pytest
import tiny

from equipoise.api.evaluate import evaluate
from equipoise.api.train import train
from equipoise.cli.main import main
from equipoise.recipes import RECIPES, to_json
from equipoise.recipes.recipe import Recipe
from equipoise.runtime.files import read_json, write_json
from equipoise.runtime.progress import Terminal
from equipoise.training import checkpoint

COMMAND = [sys.executable, "-m", "equipoise", "train"]


class Killed(BaseException):
    """Simulates a kill: nothing in the package catches it."""


def steps_of(folder: Path, stage: str) -> int:
    """Return the epoch and batch of a stage's newest checkpoint as one number."""
    try:
        _, state = checkpoint.unpack(folder / "stages" / stage / checkpoint.CURRENT)
    except RuntimeError:  # between two renames there is none
        return 0
    return int(state["epoch"]) * 1000 + int(state["batch"])


def kill_at(command: list[str], folder: Path, stage: str, point: int) -> None:
    """Start a run, wait until a stage has reached a point, and end it by SIGKILL."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while steps_of(folder, stage) < point:
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.02)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_killed_twice_resumes_bit_identical(tmp_path):
    recipe = tiny.recipe("afa_digits")
    recipe = replace(recipe, loop=replace(recipe.loop, batch_size=128, validation_images=200))
    write_json(tmp_path / "recipe.json", to_json(recipe))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command = [*COMMAND, str(tmp_path / "recipe.json"), "--out"]
    subprocess.run([*command, str(whole)], check=True, capture_output=True)

    drawn = random.Random(0)
    in_branches = 1000 * drawn.randrange(2) + drawn.randrange(1, 8)
    in_gate = drawn.randrange(1, 8)
    kill_at([*command, str(cut)], cut, "branches", in_branches)
    assert not (cut / "stages" / "branches" / "done.json").exists()
    kill_at([*command, str(cut), "--resume"], cut, "gate", in_gate)
    assert not (cut / "model").exists()
    subprocess.run([*command, str(cut), "--resume"], check=True, capture_output=True)
    assert weights(cut) == weights(whole)


def killed_at(monkeypatch, owner, name: str, number: int) -> None:
    """Make the n-th call of a function, counted from 0, raise Killed."""
    real, calls = getattr(owner, name), iter(range(number + 1))

    def counted(*arguments, **settings):
        if next(calls, None) == number:
            raise Killed
        return real(*arguments, **settings)

    monkeypatch.setattr(owner, name, counted)


def small() -> Recipe:
    """Return a recipe with one epoch per stage and two steps per epoch."""
    recipe = tiny.recipe("afa_digits")
    short = replace(tiny.SCHEDULE, epochs=1)
    method = replace(recipe.method, schedule=short, gate_schedule=short, strengths=(0.0, 0.2))
    return replace(recipe, method=method)


@pytest.fixture(scope="module")
def data():
    return tiny.digits(train=48, test=8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(small(), folder, dataset=data)
    return folder


# A run of ``small`` renames 23 files, the last three of them into its model folder.
@pytest.mark.slow
@pytest.mark.parametrize("call", range(24))
def test_a_run_killed_before_any_rename_resumes(tmp_path, monkeypatch, data, whole, call):
    folder = tmp_path / "run"
    killed_at(monkeypatch, os, "replace", call)
    with contextlib.suppress(Killed):
        train(small(), folder, dataset=data)
    monkeypatch.undo()
    train(small(), folder, dataset=data, resume=True)
    assert weights(folder) == weights(whole)
    assert (folder / "model" / "config.json").exists()
    for metrics in folder.glob("stages/*/metrics.jsonl"):
        assert len(metrics.read_text().splitlines()) == 1  # per epoch
    assert not [path for path in folder.rglob(".*") if path.is_file()]


@pytest.fixture
def resumes_alike(tmp_path, monkeypatch, data):
    """Check that a run killed before the given rename ends as one that was not."""

    def check(recipe: Recipe, call: int) -> None:
        train(recipe, tmp_path / "whole", dataset=data)
        killed_at(monkeypatch, os, "replace", call)
        with pytest.raises(Killed):
            train(recipe, tmp_path / "cut", dataset=data)
        monkeypatch.undo()
        train(recipe, tmp_path / "cut", dataset=data, resume=True)
        assert weights(tmp_path / "cut") == weights(tmp_path / "whole")

    return check


@pytest.mark.slow
@pytest.mark.parametrize("name", ["afs_digits", "standard_digits"])
@pytest.mark.parametrize("call", [6, 11])
def test_other_methods_resume_bit_identical(resumes_alike, name, call):
    resumes_alike(tiny.recipe(name), call)


@pytest.mark.parametrize("call", [13, 16, 18])
def test_a_generator_at_a_layer_resumes_bit_identical(tmp_path, monkeypatch, data, call):
    method = replace(small().method, gate=RECIPES["afa_digits_layer"]().method.gate)
    recipe = replace(small(), method=method)
    train(recipe, tmp_path / "whole", dataset=data)
    killed_at(monkeypatch, os, "replace", call)
    with pytest.raises(Killed):
        train(recipe, tmp_path / "cut", dataset=data)
    monkeypatch.undo()
    assert (tmp_path / "cut" / "stages" / "branches" / "done.json").exists()  # killed in stage II
    train(recipe, tmp_path / "cut", dataset=data, resume=True)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


@pytest.mark.parametrize("call", [5, 6])
def test_adamw_resumes_bit_identical(resumes_alike, call):
    recipe = tiny.recipe("standard_digits")
    schedule = replace(recipe.method.schedule, optimiser="adamw", learning_rate=1e-2)
    resumes_alike(replace(recipe, method=replace(recipe.method, schedule=schedule)), call)


@pytest.mark.slow
@pytest.mark.parametrize("call", [7, 12, 17])
def test_all_options_of_the_loop_at_once_resume_bit_identical(tmp_path, resumes_alike, data, call):
    extra = tmp_path / "extra.npz"
    pixels = data.test.images.permute(0, 2, 3, 1).numpy()
    numpy.savez(extra, image=pixels, label=data.test.labels.numpy())
    recipe = small()
    switches = {"averaging": "swa", "awp_gamma": 0.01, "extra": extra, "alarms": True}
    resumes_alike(replace(recipe, loop=replace(recipe.loop, **switches)), call)


def test_files_half_written_at_a_sigkill_are_removed(tmp_path, data, whole):
    folder = tmp_path / "run"
    train(small(), folder, dataset=data)
    stage = folder / "stages" / "gate"
    (stage / "done.json").unlink()
    (stage / "..checkpoint.new.k1lled00.part").write_bytes(b"half a checkpoint")
    train(small(), folder, dataset=data, resume=True)
    assert not list(stage.glob(".*"))
    assert weights(folder) == weights(whole)


def test_a_kill_during_the_first_write_does_not_block_the_folder(tmp_path, data, whole):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".recipe.json.k1lled00.part").write_bytes(b"{")
    train(small(), folder, dataset=data, resume=True)
    assert weights(folder) == weights(whole)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
@pytest.mark.slow
def test_a_signal_ends_with_its_exit_status_and_the_resume_command(
    tmp_path, monkeypatch, capsys, number, status
):
    recipe = tiny.recipe()
    recipe = replace(recipe, loop=replace(recipe.loop, batch_size=128, checkpoint_seconds=1e9))
    write_json(tmp_path / "recipe.json", to_json(recipe))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    main(["train", str(tmp_path / "recipe.json"), "--out", str(whole)])

    interrupt = tiny.AfterSteps(11, partial(os.kill, os.getpid(), number))
    interrupt.stages.append("network")
    monkeypatch.setattr(Terminal, "step", lambda self, done, text: interrupt.step(done, text))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(tmp_path / "recipe.json"), "--out", str(cut)])
    assert stopped.value.code == status
    output = capsys.readouterr().err.replace("\n", "")
    assert "a checkpoint is saved" in output
    assert steps_of(cut, "network") > 0
    assert not (cut / "model").exists()

    command = output.split("equipoise ", 1)[1].split()
    main(command)
    assert weights(cut) == weights(whole)


@pytest.mark.slow
def test_jumps_of_the_clock_change_no_result(tmp_path, monkeypatch):
    def trained(folder: Path):
        train(small(), folder, dataset=tiny.digits())
        record, _ = evaluate(str(folder), dataset=tiny.digits())
        return weights(folder), [suite["broken_at"] for suite in record["suites"]]

    steady = trained(tmp_path / "steady")
    jump, real = random.Random(0), time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump.uniform(-1e9, 1e9))
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * (real() + jump.gauss(0, 1e9))))
    assert trained(tmp_path / "jumping") == steady
    for done in (tmp_path / "jumping" / "stages").glob("*/done.json"):
        assert 0 <= read_json(done)["seconds"] < 1000
