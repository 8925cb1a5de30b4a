"""A cluster of one machine with two workers; its driver and a worker are killed on the way."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from equipoise.cli.main import main
from equipoise.execution import ray_cluster
from equipoise.models.io.trust import trusted_names, trusting
from equipoise.recipes import to_json
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import LOCK, write_json
from equipoise.training import checkpoint
from equipoise.workflows.train import train

COMMAND = [sys.executable, "-m", "equipoise", "train"]
EXTRACTORS = ("extractor0_0.1", "extractor1_0.2")


def steps_of(stage: Path) -> int:
    try:
        _, state = checkpoint.unpack(stage / checkpoint.CURRENT)
    except RuntimeError:  # between two renames there is none
        return 0
    return int(state["epoch"]) * 1000 + int(state["batch"])


def wait_for(reached) -> None:
    until = time.monotonic() + 300
    while not reached():
        assert time.monotonic() < until
        time.sleep(0.02)


def owner(stage: Path) -> int:
    """The process that trains a stage, as its lock says; 0 if none does."""
    lock = stage / LOCK
    found = re.search(r"process (\d+)", lock.read_text()) if lock.exists() else None
    return int(found[1]) if found else 0


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    from ray.cluster_utils import Cluster

    environment = pytest.MonkeyPatch()
    environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
    environment.setenv("OMP_NUM_THREADS", "1")
    root = Path(__file__).parents[2]  # workers import this file and the helpers of the tests
    paths = [str(root), str(root / "tests" / "helpers"), os.environ.get("PYTHONPATH", "")]
    environment.setenv("PYTHONPATH", os.pathsep.join(paths))

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield made.address
    made.shutdown()
    environment.undo()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_a_killed_worker_and_a_killed_driver_leave_the_bits_of_a_local_run(tmp_path, cluster):
    recipe = tiny.recipe("afs_digits")
    loop = replace(recipe.loop, batch_size=32, validation_images=700)
    recipe = replace(recipe, loop=loop)
    write_json(tmp_path / "recipe.json", to_json(recipe))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers have: sums differ with the count of threads
    train(recipe, whole)
    torch.set_num_threads(threads)

    ray = ["--executor", "ray", "--ray-address", cluster]
    command = [*COMMAND, str(tmp_path / "recipe.json"), "--out", str(cut), *ray]
    stages = [cut / "stages" / name for name in EXTRACTORS]

    def begun() -> list[str]:
        said = (tmp_path / "said").read_text()
        return re.findall(rf"{EXTRACTORS[0]}: \d+ steps(, \d+ done)?\n", said)

    with (tmp_path / "said").open("w") as said:
        driver = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        try:
            wait_for(lambda: all(steps_of(stage) >= 2 for stage in stages))  # at the same time
            wait_for(begun)  # what a worker says reaches the driver a moment later
            victim = owner(stages[0])
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: owner(stages[0]) not in (0, victim))
            wait_for(lambda: steps_of(stages[0]) >= 1000 and len(begun()) > 1)
        finally:
            driver.kill()
            driver.wait()
    assert len(begun()) == 2
    assert begun()[1]  # from its checkpoint, not from the start
    assert not (cut / "model").exists()

    done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in EXTRACTORS:
        best = [run / "stages" / name / "best.safetensors" for run in (cut, whole)]
        assert tiny.same(*(checkpoint.unpack(path)[0] for path in best))
    weights = [(run / "model" / "model.safetensors").read_bytes() for run in (cut, whole)]
    assert weights[0] == weights[1]
    assert not list(cut.rglob(LOCK))


def add(folder: Path, number: int, *others: str, reporter) -> int:
    """A piece of work: leaves its number in a file and adds up those of others."""
    reporter.log(f"at {number}")
    (folder / str(number)).touch()
    if number < 0:
        raise RunError("no number below 0, please.")
    return number + sum(int(other) for other in others if (folder / other).exists())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_work_waits_for_what_it_needs_and_failures_are_the_functions_own(tmp_path, cluster):
    heard = tiny.AfterSteps(0, None)
    executor = ray_cluster.RayExecutor(address=cluster, reporter=lambda name: heard)
    work = {"one": (add, (tmp_path, 1)), "two": (add, (tmp_path, 2))}
    work["sum"] = (add, (tmp_path, 0, "1", "2"))
    needs = {"sum": ("one", "two")}
    assert executor.run(work, needs=needs) == {"one": 1, "two": 2, "sum": 3}
    assert "at 1" in heard.lines
    with pytest.raises(RunError, match="no number below 0, please"):
        executor.run({"bad": (add, (tmp_path, -1)), "sum": work["sum"]}, needs={"sum": ("bad",)})


def trusts(*, reporter) -> tuple[str, ...]:
    """A piece of work: what is trusted where it runs."""
    return trusted_names()


def test_a_piece_of_work_trusts_what_comes_with_it(tmp_path):
    threads = torch.get_num_threads()
    assert ray_cluster._run_task(None, "one", tmp_path, ("its",), threads, trusts, ()) == ("its",)
    assert trusted_names() == ()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_workers_trust_what_is_trusted_here(cluster):
    executor = ray_cluster.RayExecutor(address=cluster, reporter=lambda name: tiny.NullReporter())
    with trusting("my_networks", tiny.linear):
        assert executor.run({"one": (trusts, ())}) == {"one": ("my_networks", "tiny:linear")}


def test_without_ray_the_message_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit) as ended:
        main(["train", "afs_digits", "--executor", "ray", "--out", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert "pip install 'equipoise[ray]'" in capsys.readouterr().err


def test_a_stage_comes_with_all_that_it_and_its_needs_need():
    def stage(name, *needs):
        return replace(stages[0], name=name, needs=needs)

    stages = tiny.recipe("afs_digits").method.stages(tiny.wide_resnet)
    plan = [stage("a"), stage("b"), stage("c", "b"), stage("d", "c")]
    needed = ray_cluster._needed_stages({each.name: each for each in plan}, "d")
    assert [each.name for each in needed] == ["b", "c"]
