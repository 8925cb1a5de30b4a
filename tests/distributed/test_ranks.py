"""Two processes that share each batch train what one process trains."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import ranks_worker
import tiny
import torch

from equipoise.api.train import train
from equipoise.attacks.threat import L2, Linf
from equipoise.cli.main import main
from equipoise.distributed.ranks import FloatInputPrecision, launched
from equipoise.distributed.shared_generator import (
    SharedGenerator,
    global_size,
    local_mean,
    local_rows,
    processes,
    rand,
    randint,
    shard,
    subset,
)
from equipoise.recipes import to_json
from equipoise.runtime import signals
from equipoise.runtime.errors import RunError, TrainingError
from equipoise.runtime.files import LOCK, locked, read_json, write_json
from equipoise.training import checkpoint

WORKER = Path(ranks_worker.__file__)


def shared(rank: int, rows: int = 6, world: int = 2) -> SharedGenerator:
    generator = SharedGenerator.of(torch.device("cpu"), rank, world)
    generator.manual_seed(0)
    shard(torch.arange(rows), generator)
    return generator


@pytest.fixture
def images():
    picture = torch.rand(6, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    return picture.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5)], ids=repr)
def test_each_process_gets_its_rows_of_the_random_start_of_one_process(threat, images):
    whole = threat.random_start(images, torch.Generator().manual_seed(0))
    for rank in range(2):
        part = threat.random_start(images[rank::2], shared(rank))
        assert torch.equal(part, whole[rank::2])


def test_repeated_batches_are_shared_evenly(images):
    twice = images.repeat(2, 1, 1, 1)
    whole = Linf(0.1).random_start(twice, torch.Generator().manual_seed(0))
    for rank in range(2):
        local = images[rank::2].repeat(2, 1, 1, 1)
        part = Linf(0.1).random_start(local, shared(rank))
        assert torch.equal(part, torch.cat([whole[:6][rank::2], whole[6:][rank::2]]))


def test_draws_for_a_subset_equal_those_of_one_process_even_without_local_rows(images):
    chosen = torch.tensor([True, False, True, False, False, False])
    whole = Linf(0.1).random_start(images[chosen], torch.Generator().manual_seed(0))
    states = []
    for rank, rows in ((0, 2), (1, 0)):
        generator = shared(rank)
        with subset(chosen, generator) as count:
            assert count == rows
            part = Linf(0.1).random_start(images[rank::2][chosen[rank::2]], generator)
        assert torch.equal(part, whole[:rows])
        assert (generator.global_rows, len(generator.positions)) == (6, 3)
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_a_plain_generator_has_the_whole_batch(images, generator):
    rows = torch.arange(6)
    assert shard(rows, generator) is rows
    assert local_rows(images, generator) is images
    assert global_size(6, generator) == 6
    assert processes(generator) == 1
    assert torch.equal(local_mean(images[:, 0, 0, 0], generator), images[:, 0, 0, 0].mean())


def test_each_process_draws_its_rows_of_what_one_process_draws():
    one = torch.Generator().manual_seed(0)
    uniform, integers = rand(6, one), randint(5, 12, one)
    for rank in range(2):
        generator = shared(rank)
        assert torch.equal(rand(3, generator), uniform[rank::2])
        assert torch.equal(randint(5, 6, generator), integers.view(2, 6)[:, rank::2].flatten())


def test_local_means_average_to_the_mean_of_the_whole_batch():
    values = torch.arange(6.0)
    chosen = torch.tensor([True, False, True, False, False, True])
    parts, subset_parts = [], []
    for rank in range(2):
        generator = shared(rank)
        parts.append(local_mean(values[rank::2], generator))
        with subset(chosen, generator):
            subset_parts.append(local_mean(values[rank::2][chosen[rank::2]], generator))
    assert torch.stack(parts).mean() == values.mean()
    torch.testing.assert_close(torch.stack(subset_parts).mean(), values[chosen].mean())


@pytest.mark.parametrize(
    ("batch", "devices", "nodes", "message"),
    [
        (16, 3, 1, r"loop.batch_size .*16 images cannot be shared evenly by 3.* multiple of 3"),
        (16, 3, 2, r"evenly by 6"),
        (16, 0, 1, r"devices and nodes must be 1 or more, got 0 and 1"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused_before_launching(batch, devices, nodes, message):
    with pytest.raises(TrainingError, match=message):
        launched("32-true", batch, devices=devices, nodes=nodes)


@pytest.mark.parametrize(
    ("accelerator", "available", "device"),
    [
        ("cpu", "cuda", "cpu"),
        ("auto", "cuda", "cuda"),
        ("gpu", "mps", "mps"),
        ("auto", None, "cpu"),
    ],
)
def test_mixed_precision_uses_the_device_that_fabric_chooses(
    monkeypatch, accelerator, available, device
):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: available is not None)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: torch.device(available))
    precision = FloatInputPrecision(accelerator)
    assert precision.device == device
    images = torch.rand(2, 3)
    assert precision.convert_input(images) is images


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    tests = str(WORKER.parents[1])
    path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | more


@pytest.mark.slow
def test_the_process_group_is_destroyed_before_the_process_exits():
    """Threads of gloo that outlive the interpreter sometimes abort the process."""
    script = """
import atexit, torch
atexit.register(lambda: print("in a group at the end:", torch.distributed.is_initialized()))
from equipoise.distributed.ranks import launched
launched("32-true", 128, strategy="ddp", accelerator="cpu")
print("in a group:", torch.distributed.is_initialized())
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["in a group: True", "in a group at the end: False"]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Train all cases in two processes, started as torchrun starts them."""
    folder = tmp_path_factory.mktemp("together")
    launch = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "GROUP_RANK": "0"}
    launch |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "tests"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder)],
            env=environment(**launch, RANK=str(rank), LOCAL_RANK=str(rank)),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=500)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    return folder


def curves(folder: Path, name: str) -> list[dict]:
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("name", ranks_worker.CASES)
def test_two_processes_train_what_one_process_trains(tmp_path, together, name):
    one = ranks_worker.train(name, tmp_path, tiny.fabric())
    first, second = (checkpoint.unpack(together / f"{name}.{r}.safetensors")[0] for r in (0, 1))
    assert tiny.same(first, second)
    assert first.keys() == one.keys()
    for key, value in one.items():
        named = partial("{}: {}".format, key)
        torch.testing.assert_close(first[key], value, rtol=1e-5, atol=2e-6, msg=named)
    for ours, theirs in zip(curves(together, name), curves(tmp_path, name), strict=True):
        assert ours["validation"] == theirs["validation"]
        assert ours["fgsm"] == theirs["fgsm"]
        assert ours["train"]["loss"] == pytest.approx(theirs["train"]["loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ranks_worker.CASES)
def test_gradients_are_reduced_once_per_step(together, name):
    _, state = checkpoint.unpack(together / f"{name}.0.safetensors")
    steps = ranks_worker.SHORT.epochs * (len(ranks_worker.TRAIN) // ranks_worker.LOOP.batch_size)
    assert len(state["reductions"]) == steps
    assert len(set(state["reductions"])) == 1  # always of all of them


@pytest.mark.slow
def test_processes_stop_together_and_resume_bit_identical(tmp_path):
    recipe = tiny.recipe("pgd_at_digits")
    recipe = replace(recipe, loop=replace(recipe.loop, batch_size=128))
    write_json(tmp_path / "recipe.json", to_json(recipe))
    command = [sys.executable, "-m", "equipoise", "train", str(tmp_path / "recipe.json")]
    command += ["--devices", "2", "--out"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = subprocess.run(
        [*command, str(whole)], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.count("next: equipoise evaluate") == 1  # only rank 0 prints
    assert read_json(whole / "environment.json")["processes"] == 2

    process = subprocess.Popen(
        [*command, str(cut)], env=environment(), stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 300
    while not (cut / "stages" / "network" / checkpoint.CURRENT).exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)  # to one of the two
    assert "a checkpoint is saved" in process.communicate(timeout=300)[1]
    assert process.returncode == signals.REQUEUE
    assert not (cut / "model").exists()
    assert not (cut / LOCK).exists()

    resumed = [*command, str(cut), "--resume"]
    refused = subprocess.run([*command, str(cut)], env=environment(), capture_output=True)
    assert refused.returncode == 2
    assert refused.stderr.count(b"already holds a run") == 1
    subprocess.run(resumed, env=environment(), capture_output=True, check=True)
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (whole, cut)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_one_process_resumes_where_two_stopped(together, tmp_path):
    """A checkpoint does not depend on the number of processes that wrote it."""
    _, state = checkpoint.unpack(together / "pgd_at" / checkpoint.CURRENT)
    assert not {"world", "rank", "processes"} & state.keys()
    stage, _, loop = ranks_worker.CASES["pgd_at"]
    folder = tmp_path / "pgd_at"
    folder.mkdir()
    for name in (checkpoint.CURRENT, "metrics.jsonl", "best.safetensors"):
        (folder / name).write_bytes((together / "pgd_at" / name).read_bytes())
    longer = replace(stage(), keep="last")
    longer = replace(longer, schedule=replace(longer.schedule, epochs=3))
    torch.manual_seed(0)
    task = longer.build({})
    settings = ranks_worker.IMAGES | {"loop": loop}
    summary = tiny.fit_stage(longer, task, folder, **settings)
    assert summary["epochs"] == 3
    assert len(curves(tmp_path, "pgd_at")) == 3


def test_the_command_line_refuses_a_batch_that_cannot_be_shared(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "pgd_at_digits", "--devices", "3"])
    assert ended.value.code == 2
    assert "cannot be shared evenly by 3" in capsys.readouterr().err.replace("\n", " ")


def test_a_folder_in_use_is_refused_and_its_owner_named(tmp_path):
    with locked(tmp_path / "run"), pytest.raises(RunError) as refused:
        train(tiny.recipe(), tmp_path / "run", dataset=tiny.digits())
    assert f"in use by process {os.getpid()} on {socket.gethostname()}" in str(refused.value)
    assert "--out" in str(refused.value)
