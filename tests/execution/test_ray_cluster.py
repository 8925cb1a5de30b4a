"""A Ray cluster of one machine with two workers, and kills of its driver and a worker."""

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

from equipoise.api.train import train
from equipoise.cli.main import main
from equipoise.execution import ray_cluster
from equipoise.recipes import to_json
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import LOCK, write_json
from equipoise.runtime.trust import trusted_names, trusting
from equipoise.training import checkpoint

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
    """Return the process id in a stage's lock file, or 0."""
    lock = stage / LOCK
    match = re.search(r"process (\d+)", lock.read_text()) if lock.exists() else None
    return int(match[1]) if match else 0


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    from ray.cluster_utils import Cluster

    environment = pytest.MonkeyPatch()
    environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
    environment.setenv("OMP_NUM_THREADS", "1")
    root = Path(__file__).parents[2]  # workers import this file and the test helpers
    paths = [str(root), str(root / "tests" / "helpers"), os.environ.get("PYTHONPATH", "")]
    environment.setenv("PYTHONPATH", os.pathsep.join(paths))

    ray_cluster_process = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
    )
    yield ray_cluster_process.address
    ray_cluster_process.shutdown()
    environment.undo()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_a_run_with_a_killed_worker_and_driver_is_bit_identical_to_a_local_one(tmp_path, cluster):
    recipe = tiny.recipe("afs_digits")
    loop = replace(recipe.loop, batch_size=64)
    recipe = replace(recipe, loop=loop)
    write_json(tmp_path / "recipe.json", to_json(recipe))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # like the workers: sums depend on the number of threads
    train(recipe, whole)
    torch.set_num_threads(threads)

    ray = ["--executor", "ray", "--ray-address", cluster]
    command = [*COMMAND, str(tmp_path / "recipe.json"), "--out", str(cut), *ray]
    stages = [cut / "stages" / name for name in EXTRACTORS]

    def starts() -> list[str]:
        output = (tmp_path / "output").read_text()
        return re.findall(rf"{EXTRACTORS[0]}: \d+ steps(, \d+ done)?\n", output)

    with (tmp_path / "output").open("w") as output:
        driver = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_for(lambda: all(steps_of(stage) >= 2 for stage in stages))  # at the same time
            wait_for(starts)  # reports reach the driver a moment later
            victim = owner(stages[0])
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: owner(stages[0]) not in (0, victim))
            wait_for(lambda: steps_of(stages[0]) >= 1000 and len(starts()) > 1)
        finally:
            driver.kill()
            driver.wait()
    assert len(starts()) == 2
    assert starts()[1]  # from its checkpoint, not from the start
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
    """Create a file named by a number, and add those of other files that exist."""
    reporter.log(f"at {number}")
    (folder / str(number)).touch()
    if number < 0:
        raise RunError("no number below 0, please.")
    return number + sum(int(other) for other in others if (folder / other).exists())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_tasks_wait_for_those_they_need_and_raise_their_own_errors(tmp_path, cluster):
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
    """Return the names that are trusted in this process."""
    return trusted_names()


def test_a_task_trusts_the_code_that_is_sent_with_it(tmp_path):
    threads = torch.get_num_threads()
    assert ray_cluster._run_task(None, "one", tmp_path, ("its",), threads, trusts, ()) == ("its",)
    assert trusted_names() == ()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_workers_trust_the_code_that_the_driver_trusts(cluster):
    executor = ray_cluster.RayExecutor(address=cluster, reporter=lambda name: tiny.NullReporter())
    with trusting("my_networks", tiny.linear):
        assert executor.run({"one": (trusts, ())}) == {"one": ("my_networks", "tiny:linear")}


def test_without_ray_the_error_names_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit) as ended:
        main(["train", "afs_digits", "--executor", "ray", "--out", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert "pip install 'equipoise[ray]'" in capsys.readouterr().err


def test_a_stage_runs_after_its_direct_and_indirect_needs():
    def stage(name, *needs):
        return replace(stages[0], name=name, needs=needs)

    stages = tiny.recipe("afs_digits").method.stages(tiny.wide_resnet)
    plan = [stage("a"), stage("b"), stage("c", "b"), stage("d", "c")]
    needed = ray_cluster._needed_stages({stage.name: stage for stage in plan}, "d")
    assert [stage.name for stage in needed] == ["b", "c"]
