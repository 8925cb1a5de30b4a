"""The files under examples/cluster, as far as they can be checked without a cluster."""

import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from equipoise.api.train import find_recipe
from equipoise.cli.main import main
from equipoise.execution import ray_cluster

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "cluster"
SCRIPTS = ("torchrun.sh", "train.sbatch")


def command_in(name: str) -> list[str]:
    """Return the arguments of ``equipoise train`` in a script or manifest."""
    text = (EXAMPLES / name).read_text().replace("\\\n", " ")
    if name.endswith(".yaml"):
        text = yaml.safe_load(text)["spec"]["entrypoint"]
    (command,) = re.findall(r"^[^#\n]*?equipoise (train .*)$", text, re.MULTILINE)
    return shlex.split(command)


@pytest.fixture
def calls(monkeypatch):
    """Record the arguments of ``train`` and ``launched``, and train nothing."""
    calls = []

    class Launched:
        is_global_zero = True

    def launch(precision, batch_size, **settings):
        calls.append((None, settings))
        return Launched()

    monkeypatch.setattr("equipoise.data.formats.check_exists", lambda path: None)
    monkeypatch.setattr("equipoise.distributed.ranks.launched", launch)
    monkeypatch.setattr(
        "equipoise.api.train.train",
        lambda recipe, folder, **rest: calls.append((recipe, rest)),
    )
    return calls


@pytest.mark.parametrize("name", [*SCRIPTS, "rayjob.yaml"])
def test_its_command_is_accepted_by_the_command_line(name, calls):
    main(command_in(name))
    (_, launch), (recipe, rest) = calls
    loop = recipe.loop
    assert rest["resume"]  # each may be restarted
    assert str(recipe.dataset.folder) == "/shared/cifar10"
    world = launch["devices"] * launch["nodes"]
    assert loop.batch_size % world == 0
    assert (world > 1) == (name in SCRIPTS) == loop.sync_batch_norm
    elsewhere = rest["elsewhere"]
    assert isinstance(elsewhere, ray_cluster.RayExecutor) == (name == "rayjob.yaml")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_valid_shell(name):
    subprocess.run(["bash", "-n", str(EXAMPLES / name)], check=True)


def test_torchrun_starts_as_many_processes_as_the_command_expects():
    words = shlex.split((EXAMPLES / "torchrun.sh").read_text(), comments=True)
    after = dict(pairwise(words))
    assert after["--nproc-per-node"] == after["--devices"]
    assert after["--nnodes"] == after["--nodes"]


def test_slurm_starts_as_many_processes_as_the_command_expects():
    text = (EXAMPLES / "train.sbatch").read_text()
    asked_for = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.MULTILINE))
    words = command_in("train.sbatch")
    after = dict(pairwise(words))
    assert asked_for["nodes"] == after["--nodes"]
    assert asked_for["ntasks-per-node"] == asked_for["gpus-per-node"] == after["--devices"]


def test_the_machines_of_the_cluster_have_the_resources_of_a_stage():
    spec = yaml.safe_load((EXAMPLES / "rayjob.yaml").read_text())["spec"]
    words = command_in("rayjob.yaml")
    after = dict(pairwise(words))
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert limits["cpu"] == after["--threads"]
    assert str(limits["nvidia.com/gpu"]) == after["--ray-gpus"]
    extractors = find_recipe(words[1]).method.budgets
    assert group["replicas"] == len(extractors)
    for part in (spec["rayClusterSpec"]["headGroupSpec"], group):
        (only,) = part["template"]["spec"]["containers"]
        assert {"name": "shared", "mountPath": "/shared"} in only["volumeMounts"]
