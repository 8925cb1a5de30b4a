"""Options of the loop: off, they change no bit; on, they survive a kill at any step."""

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy
import pytest
import torch
from tiny import (
    ATTACK,
    LOOP,
    fabric,
    fit_stage,
    learnable,
    linear,
    one_stage,
    same,
    weights,
    wide_resnet,
)
from torch import nn

from equipoise.data import Augmentation
from equipoise.execution.local import execute
from equipoise.methods import AFA, AFS
from equipoise.methods.single_network import NetworkTask
from equipoise.objectives import PGDAT
from equipoise.training import BEST, LAST, TrainingConfig, checkpoint
from equipoise.training.metrics import METRICS
from equipoise.training.schedule import Schedule

STEPS = 4  # per epoch

# Digests of the weights that commit 82d2462 trains, the last one before these options existed.
# Bits depend on the kernels, so there is one digest per CPU vendor.
GOLDEN = {
    "AuthenticAMD": {
        "network": "b542640986c3bd429706acd5660d291a7bc5498df0ca0352263d6ea2204c66bc",
        "afa": "698340e09230ba3427efd2baf703a1f709d5e6594d335feed11094983aa94b94",
        "afs": "7f9837d7e8f4735f172e7a6aaf5ec3003794b07304b9abc05cebcdbda4a9c38c",
    },
    "GenuineIntel": {
        "network": "b00b55b94e58807a43bad27335d46a83b0fa7236e6c320da9adecdd01cba2a65",
        "afa": "ac014735095673156385eddb017a86d69f59d7f4acf50ca409dc92da2ac5ad12",
        "afs": "6227df85223b6aeb92985ef8ace274252b9b74e3fe6fc47bfb2d21beff1023ee",
    },
}
MADE_BY = ("2.13.0+cpu", "AVX512")


def vendor() -> str:
    """Return the CPU vendor as Linux reports it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split()[-1] for line in lines if line.startswith("vendor_id")), "unknown")


def digest(module: nn.Module) -> str:
    sha = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        sha.update(name.encode())
        sha.update(value.contiguous().numpy().tobytes())
    return sha.hexdigest()


def plan(name: str):
    schedule = Schedule(
        epochs=2, learning_rate=0.1, shape="one_cycle", clip_norm=1.0, nesterov=True
    )
    make = partial(wide_resnet, 2)
    if name == "network":
        return [single(make, schedule)]
    settings = {"objective": PGDAT(), "attack": ATTACK, "schedule": schedule}
    if name == "afa":
        return AFA(strengths=(0.0, 0.05, 0.2), gate_schedule=schedule, **settings).stages(make)
    return AFS(
        budgets=(0.0, 0.05), merger_schedule=schedule, merger_epsilon=0.05, **settings
    ).stages(make)


def single(make, schedule, **changes):
    return replace(one_stage(make, PGDAT(), 0.05, schedule=schedule), **changes)


@pytest.mark.skipif(
    (torch.__version__, torch.backends.cpu.get_cpu_capability()) != MADE_BY
    or vendor() not in GOLDEN,
    reason="bits depend on the kernels",
)
@pytest.mark.parametrize("name", ["network", "afa", "afs"])
def test_default_settings_train_the_golden_weights(tmp_path, name):
    loop = TrainingConfig(
        batch_size=16,
        validation_images=16,
        validation_steps=1,
        augmentation=Augmentation(shift=1, flip=True),
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        outcome, _ = execute(
            plan(name), train=learnable(80), loop=loop, folder=tmp_path, seed=0, fabric=fabric()
        )
    finally:
        torch.set_num_threads(threads)
    assert digest(outcome) == GOLDEN[vendor()][name]


@pytest.mark.parametrize("shape", ["piecewise", "cosine", "one_cycle"])
def test_default_settings_equal_a_plain_training_loop(tmp_path, shape):
    """A plain loop written down here is bit-identical, on any machine."""
    schedule = Schedule(epochs=3, learning_rate=0.1, shape=shape, decay_epochs=(1,))
    of = single(partial(linear, 2), schedule, keep="last")
    looped, plain = of.build({}), of.build({})
    fit_stage(of, looped, tmp_path)

    train, generator = learnable(), torch.Generator().manual_seed(0)
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for step in range(3 * STEPS):
        if step % STEPS == 0:
            order = torch.randperm(64, generator=generator)
        optimiser.param_groups[0]["lr"] = schedule.rate(step / (3 * STEPS))
        first = 16 * (step % STEPS)
        images, labels = train.batch(order[first : first + 16])
        images = images.contiguous(memory_format=torch.channels_last)
        optimiser.zero_grad()
        plain.train()(images, labels, generator, step / (3 * STEPS))["loss"].backward()
        optimiser.step()
    assert same(weights(plain), weights(looped))


@pytest.mark.parametrize(
    ("shape", "rates"),
    [
        # At steps 3, 7, 11 and 15 of 16, the last ones of their epochs.
        ("cosine", [0.1 * (1 + numpy.cos(numpy.pi * step / 16)) for step in (3, 7, 11, 15)]),
        ("one_cycle", [0.2 * 3 / 6.4, *(0.2 * (16 - step) / 9.6 for step in (7, 11, 15))]),
    ],
)
def test_the_optimiser_uses_the_rates_of_the_schedule(tmp_path, shape, rates):
    of = single(partial(linear, 2), Schedule(epochs=4, learning_rate=0.2, shape=shape))
    fit_stage(of, of.build({}), tmp_path)
    lines = (tmp_path / METRICS).read_text().splitlines()
    assert [json.loads(line)["learning_rate"] for line in lines] == pytest.approx(rates)


class Killed(BaseException):
    """Simulates a kill: nothing in the package catches it."""


class Mortal(NetworkTask):
    """Raises Killed in its n-th call, if given; also draws from torch's global generator."""

    def __init__(self, call=None):
        torch.manual_seed(0)
        network = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 2))
        super().__init__(network, PGDAT(), 0.05, ATTACK, "Linf")
        self.left = call

    def forward(self, images, labels, generator, progress):
        if self.left == 0:
            raise Killed
        if self.left is not None:
            self.left -= 1
        return super().forward(images, labels, generator, progress)


@pytest.fixture(scope="module")
def extra(tmp_path_factory):
    path = tmp_path_factory.mktemp("extra") / "extra.npz"
    split = learnable(50)
    numpy.savez(path, image=split.images.permute(0, 2, 3, 1).numpy(), label=split.labels.numpy())
    return path


SWITCHES = {
    "ema": {"averaging": "ema", "averaging_start": 0.3},
    "swa": {"averaging": "swa", "averaging_start": 0.5},
    "awp": {"awp_gamma": 0.02, "awp_start": 0.2},
    "extra": {"extra_share": 0.5},
    "alarms": {"alarms": True},
    "all": {"averaging": "swa", "averaging_start": 0.0, "awp_gamma": 0.02, "alarms": True},
}


def loop(name: str, extra) -> TrainingConfig:
    with_extra = {"extra": extra} if name in ("extra", "all") else {}
    return replace(LOOP, augmentation=Augmentation(shift=1), **SWITCHES[name], **with_extra)


STAGE = single(linear, Schedule(epochs=3, learning_rate=0.1), keep="best")


@pytest.fixture(scope="module")
def wholes(tmp_path_factory, extra):
    """Folder with an uninterrupted run for each option."""
    folder = tmp_path_factory.mktemp("whole")
    for name in SWITCHES:
        fit_stage(STAGE, Mortal(), folder / name, loop=loop(name, extra))
    return folder


def entries(folder) -> list[dict]:
    lines = (folder / METRICS).read_text().splitlines()
    return [json.loads(line) | {"seconds": 0} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("call", [1, 6, 9, 11, 14])
@pytest.mark.parametrize("name", list(SWITCHES))
def test_a_run_killed_in_any_call_resumes_bit_identical_with_every_option(
    tmp_path, wholes, extra, name, call
):
    settings = loop(name, extra)
    dead = Mortal(call)
    try:
        fit_stage(STAGE, dead, tmp_path, loop=settings)
    except Killed:
        assert dead.left == 0
    resumed = Mortal()
    fit_stage(STAGE, resumed, tmp_path, loop=settings)
    for file in (BEST, LAST):
        resumed_weights, whole = (
            checkpoint.unpack(folder / file)[0] for folder in (tmp_path, wholes / name)
        )
        assert same(resumed_weights, whole)
    assert entries(tmp_path) == entries(wholes / name)


@pytest.mark.parametrize("name", ["ema", "swa", "awp", "extra"])
def test_every_option_that_affects_training_changes_the_weights(tmp_path, wholes, name):
    plain = replace(LOOP, augmentation=Augmentation(shift=1))
    fit_stage(STAGE, Mortal(), tmp_path, loop=plain)
    without, with_switch = (
        checkpoint.unpack(folder / LAST)[0] for folder in (tmp_path, wholes / name)
    )
    assert not same(without, with_switch)
