"""Cost of a plan: counted passes, and times read from a clock that the tests control."""

import inspect
import subprocess
import sys
from dataclasses import replace

import pytest
import tiny
import torch
from torch import nn

from equipoise import save
from equipoise.api.dry_run import Passes, Timing, dry_run, stage_costs
from equipoise.evaluation import robust_accuracy
from equipoise.methods import AFA, AFS, OAT, Gate, SingleNetwork, TrainingAttack
from equipoise.objectives import LBGAT, PGDAT, TRADES, Standard
from equipoise.training.stage import Stage
from equipoise.training.validation import VALIDATION_BATCH

STEPS = 3
ATTACK = TrainingAttack(steps=STEPS, relative_step=0.5)
LOOP = replace(tiny.LOOP, batch_size=8)


def costs(stages, **settings):
    defaults = {"dataset": tiny.digits(), "loop": LOOP, "seed": 0, "fabric": tiny.fabric()}
    defaults["timing"] = Timing(seconds=0.05)
    return stage_costs(stages, tiny.wide_resnet, **(defaults | settings))


def single(objective, epsilon=0.1):
    return SingleNetwork(
        objective=objective, epsilon=epsilon, attack=ATTACK, schedule=tiny.SCHEDULE
    )


def afa(**changes):
    method = AFA(
        objective=PGDAT(),
        strengths=(0.0, 0.05, 0.1),
        attack=ATTACK,
        schedule=tiny.SCHEDULE,
        gate=Gate(pairs=True),
        gate_schedule=replace(tiny.SCHEDULE, epochs=1),
    )
    return replace(method, **changes)


def afs(**changes):
    method = AFS(
        objective=PGDAT(),
        budgets=(0.0, 0.05, 0.1),
        attack=ATTACK,
        schedule=tiny.SCHEDULE,
        merger_schedule=tiny.SCHEDULE,
    )
    return replace(method, **changes)


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        (single(Standard(), 0.0), [(1, 1)]),
        (single(PGDAT()), [(STEPS + 1, STEPS + 1)]),
        (single(TRADES()), [(STEPS + 3, STEPS + 2)]),
        (single(LBGAT()), [(STEPS + 4, STEPS + 2)]),
        # K - 1 attacked branches and all K in the loss; then images in pairs.
        (afa(), [(2 * STEPS + 3, 2 * STEPS + 3), (STEPS + 2, STEPS + 2)]),
        # N frozen members: the attack through all, both terms, and no gradient into them.
        (afs(), [(1, 1), *[(STEPS + 1, STEPS + 1)] * 2, (3 * (STEPS + 2), 3 * STEPS)]),
    ],
    ids=["standard", "pgd_at", "trades", "lbgat", "afa", "afs"],
)
def test_counted_passes_are_those_of_the_method(method, passes):
    measured = costs(method.stages)
    assert [tuple(stage["passes_an_image"]) for stage in measured] == passes
    steps = (112 - 16) // 8
    for stage, (forward, backward) in zip(measured, passes, strict=True):
        assert stage["steps_an_epoch"] == steps
        assert stage["forward_passes_an_epoch"] == forward * 8 * steps
        assert stage["backward_passes_an_epoch"] == backward * 8 * steps


def test_passes_of_a_stack_of_saved_networks_are_counted(tmp_path):
    folders = tuple(str(tmp_path / name) for name in "ab")
    for folder in folders:
        save(tiny.wide_resnet(), folder)
    (merger,) = costs(afs(budgets=(), extractors=folders).stages)
    assert merger["passes_an_image"] == [2 * (STEPS + 2), 2 * STEPS]


def test_stages_with_equal_counts_are_measured_once():
    measured = costs(afs().stages)
    names = [stage["stage"] for stage in measured]
    assert names == ["extractor0_0", "extractor1_0.05", "extractor2_0.1", "merger"]
    assert [stage["like"] for stage in measured] == [None, None, names[1], None]
    assert measured[2] == measured[1] | {"stage": names[2], "like": names[1]}


def test_parameters_and_multiply_adds_of_each_stage():
    network = tiny.wide_resnet()
    count = sum(parameter.numel() for parameter in network.parameters())
    branches, gate = costs(afa().stages)
    (alone,) = costs(single(PGDAT()).stages)
    assert alone["parameters"] == alone["trained"] == count
    assert branches["trained"] == branches["parameters"] > count
    assert gate["trained"] < gate["parameters"]
    assert branches["multiply_adds"] == alone["multiply_adds"] < gate["multiply_adds"]


class Clock:
    """A clock that only a task moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Timed(nn.Module):
    """A linear task that takes a fixed time per image, in training and in validation."""

    def __init__(self, clock, seconds, validation_seconds=0.0):
        super().__init__()
        self.network, self.clock = tiny.linear(), clock
        self.seconds, self.validation_seconds = seconds, validation_seconds
        self.sizes = []

    def forward(self, images, labels, generator, progress):
        self.clock.now += self.seconds * len(images)
        self.sizes.append((len(images), progress))
        return {"loss": nn.functional.cross_entropy(self.network(images), labels)}

    def outcome(self):
        return self.network

    def predictor(self, epsilon):
        def predict(images):
            self.clock.now += self.validation_seconds * len(images)
            return self.network(images)

        return predict


def timed(seconds, *, validation_seconds=0.0, epochs=4, loop=LOOP, budget=10.0):
    """The cost of a one-stage plan whose task takes known times, and the task."""
    clock = Clock()
    task = Timed(clock, seconds, validation_seconds)
    stage = Stage(
        name="timed",
        build=lambda needed: task,
        schedule=replace(tiny.SCHEDULE, epochs=epochs),
        validation=(0.0,),
    )
    (measured,) = costs(lambda make: [stage], loop=loop, timing=Timing(clock=clock, seconds=budget))
    return measured, task


def test_time_covers_all_steps_and_validations():
    loop = replace(LOOP, validate_every=3)
    measured, _ = timed(0.01, validation_seconds=0.02, epochs=4, loop=loop)
    assert measured["seconds_a_step"] == pytest.approx(0.01 * 8)
    assert measured["seconds_a_validation"] == pytest.approx(0.02 * 16)
    # Epochs 3 and 4, the last one always.
    assert measured["seconds"] == pytest.approx(4 * 12 * 0.08 + 2 * 0.32)
    assert measured["measured"]["batch"] == 8


def test_slow_steps_are_measured_on_small_batches_and_scaled():
    measured, task = timed(5.0, validation_seconds=0.0, budget=6.0)
    assert measured["measured"] == {"batch": 4, "steps": 2, "seconds": pytest.approx(20.0)}
    assert measured["batch"] == 8
    assert measured["seconds_a_step"] == pytest.approx(40.0)
    assert [size for size, _ in task.sizes] == [2, 2, 4, 4, 4]


def test_steps_that_exceed_the_time_twofold_are_not_repeated():
    measured, task = timed(11.0, validation_seconds=0.0, budget=10.0)
    assert [size for size, _ in task.sizes] == [2, 2]
    assert measured["measured"] == {"batch": 2, "steps": 1, "seconds": pytest.approx(22.0)}
    assert measured["seconds_a_step"] == pytest.approx(88.0)


def test_a_slow_validation_is_measured_on_few_images_and_scaled():
    measured, _ = timed(0.001, validation_seconds=2.0, budget=10.0)
    assert measured["seconds_a_validation"] == pytest.approx(2.0 * 16)


def test_steps_are_spread_over_the_stage():
    _, task = timed(0.1, epochs=10)
    shares = [progress for size, progress in task.sizes if size == 8]
    assert min(shares) == 0
    assert max(shares) >= 0.8


def test_memory_of_larger_batches_is_extrapolated_from_two_measurements():
    from equipoise.api.dry_run import _at

    assert _at(128, [(2, 1000), (4, 1200)]) == 1200 + 100 * 124
    assert _at(4, [(2, 1000), (4, 1200)]) == 1200
    assert _at(8, [(2, 1200), (4, 1000)]) == 1000  # never less for more images
    assert _at(1, [(1, 700), (1, 700)]) == 700


def test_validation_has_the_batch_size_that_the_dry_run_assumes():
    default = inspect.signature(robust_accuracy).parameters["batch_size"].default
    assert default == VALIDATION_BATCH


PEAK = """
import torch
from equipoise.api.dry_run import Peak
with Peak(torch.device("cpu")) as before:
    pass
with Peak(torch.device("cpu")) as peak:
    held = torch.ones(25_000_000)
    assert held.max() == 1
    del held
print(peak.bytes - before.bytes)
"""


@pytest.mark.slow
def test_peak_memory_includes_memory_freed_again():
    """In a new process, which holds no freed memory yet."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert 90e6 < int(done.stdout) < 150e6


def test_passes_of_a_copied_network_are_counted_with_the_original():
    import copy

    passes = Passes()
    network = passes.counted(tiny.wide_resnet)()
    images = torch.rand(3, 1, 8, 8)
    copy.deepcopy(network)(images).sum().backward()
    with torch.no_grad():
        network(images)
    assert passes.take() == (6, 3)
    assert passes.take() == (0, 0)


def test_passes_of_a_network_without_linear_layers_are_counted():
    passes = Passes()
    network = passes.counted(lambda: nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()))()
    network(torch.rand(5, 1, 8, 8)).sum().backward()
    assert passes.take() == (5, 5)


def test_a_stage_that_trains_nothing_costs_nothing():
    assert [stage["stage"] for stage in costs(afa(soup=0.1).stages)] == ["branches"]


def test_passes_of_a_conditional_network_are_counted():
    method = OAT(epsilon=0.1, attack=ATTACK, schedule=tiny.SCHEDULE, size=8)
    (measured,) = costs(method.stages)
    forward, backward = measured["passes_an_image"]
    assert 2 < forward <= STEPS + 2
    assert backward == forward


def test_a_dry_run_writes_nothing_and_leaves_the_global_generator_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    costs(single(PGDAT()).stages)
    assert torch.equal(torch.rand(3), expected)
    assert list(tmp_path.iterdir()) == []


def test_the_cost_of_a_recipe_is_the_sum_over_its_stages(monkeypatch):
    recipe = tiny.recipe("afa_digits")
    monkeypatch.setattr(type(recipe.dataset), "load", lambda self: tiny.digits())
    measured = dry_run(recipe, seconds=0.05)
    assert measured["recipe"] == "afa_digits"
    assert [stage["stage"] for stage in measured["stages"]] == ["branches", "gate"]
    assert measured["seconds"] == sum(stage["seconds"] for stage in measured["stages"])
    assert measured["memory"] == max(stage["memory"] for stage in measured["stages"])
    assert measured["environment"]["python"]
