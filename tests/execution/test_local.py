import os
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny import (
    ATTACK,
    LOOP,
    SCHEDULE,
    AfterSteps,
    fabric,
    learnable,
    linear,
    one_stage,
    same,
    split,
    weights,
)
from torch import nn

from equipoise.execution.local import check_forward, execute
from equipoise.methods import AFS
from equipoise.methods.single_network import NetworkTask
from equipoise.objectives import PGDAT, Standard
from equipoise.runtime.errors import RunError
from equipoise.runtime.signals import Interrupted
from equipoise.training.stage import Stage, UntrainedTask


def make() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))


def stage(name: str, **changes) -> Stage:
    return Stage(**(vars(one_stage(make, name=name)) | changes))


def run(stages, folder, **changes):
    settings = {"train": learnable(80), "loop": LOOP, "seed": 0, "fabric": fabric()}
    return execute(stages, folder=folder, **(settings | changes))


def afs() -> AFS:
    return AFS(
        objective=PGDAT(),
        budgets=(0.0, 0.05),
        attack=ATTACK,
        schedule=SCHEDULE,
        merger_schedule=SCHEDULE,
        merger_epsilon=0.05,
    )


def contents(images) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def test_stages_run_in_order_and_each_gets_the_outcomes_it_needs(tmp_path):
    asked = {}

    def build(needed):
        asked.update(needed)
        return NetworkTask(make(), Standard(), 0.0, ATTACK, "Linf")

    stages = [stage("one"), stage("two"), stage("three", build=build, needs=("two",))]
    reporter = AfterSteps(0, None)
    outcome, ran = run(stages, tmp_path, reporter=reporter)
    assert ran == reporter.stages == ["one", "two", "three"]
    assert list(asked) == ["two"]
    assert not outcome.training


def test_a_network_that_the_last_stage_cannot_use_is_refused_before_the_first():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    stages = afs().stages(lambda: network)
    with pytest.raises(RuntimeError, match=r"network of stage 'merger' fails .*wrap it so that"):
        check_forward(stages, learnable(4))


def test_a_stage_that_trains_nothing_writes_no_files(tmp_path):
    def build(needed):
        return UntrainedTask(nn.Sequential(needed["one"], nn.Softmax(dim=1)))

    stages = [stage("one"), stage("two", build=build, needs=("one",), trains=False)]
    outcome, ran = run(stages, tmp_path)
    assert ran == ["one"]
    assert not (tmp_path / "stages" / "two").exists()
    images, _ = split(4, classes=2).batch(slice(None))
    torch.testing.assert_close(outcome(images).sum(dim=1), torch.ones(4))


def test_finished_stages_are_loaded_instead_of_trained(tmp_path):
    first, _ = run([stage("one"), stage("two")], tmp_path)
    _, ran = run([stage("one"), stage("two"), stage("three")], tmp_path)
    assert ran == ["three"]
    reloaded, ran = run([stage("one"), stage("two")], tmp_path)
    assert ran == []
    assert same(weights(reloaded), weights(first))
    assert not reloaded.training


@pytest.mark.parametrize(
    ("changes", "of_run", "what"),
    [
        ({"schedule": replace(SCHEDULE, epochs=SCHEDULE.epochs + 1)}, {}, "schedule.epochs"),
        ({"validation": (0.0, 0.3)}, {}, "validation"),
        ({}, {"seed": 1}, "seed"),
        ({}, {"train": learnable(60)}, "images"),
        ({}, {"loop": replace(LOOP, batch_size=7)}, "loop.batch_size"),
        ({"settings": {"alpha": 0.1}}, {}, "method.alpha"),
        ({"build": one_stage(lambda: linear(2)).build}, {}, r"tensors\.\S+"),
    ],
)
def test_a_folder_with_a_stage_of_other_settings_is_refused(changes, of_run, what, tmp_path):
    run([stage("one")], tmp_path)
    with pytest.raises(RunError, match=f"holds a stage that differs in {what}[;,]"):
        run([stage("one", **changes)], tmp_path, **of_run)


def test_stages_start_from_different_weights_that_are_the_same_in_every_run(tmp_path):
    starts = {}

    def build(name, needed):
        network = make()
        starts.setdefault(name, []).append(weights(network))
        return NetworkTask(network, Standard(), 0.0, ATTACK, "Linf")

    stages = [stage(name, build=partial(build, name)) for name in ("one", "two")]
    run(stages, tmp_path / "a")
    torch.rand(5)
    run(stages, tmp_path / "b")
    run(stages, tmp_path / "c", seed=1)
    assert same(starts["one"][0], starts["one"][1])
    assert not same(starts["one"][0], starts["two"][0])
    assert not same(starts["one"][0], starts["one"][2])


def test_the_order_of_independent_stages_does_not_matter(tmp_path):
    first, second, merger = afs().stages(make)
    one, _ = run([first, second, merger], tmp_path / "a")
    other, _ = run([second, first, merger], tmp_path / "b")
    assert same(weights(one), weights(other))


def test_validation_images_are_never_trained_on(tmp_path):
    trained, validated = set(), set()

    class Watching(NetworkTask):
        def forward(self, images, labels, generator, progress):
            trained.update(contents(images))
            return super().forward(images, labels, generator, progress)

        def predictor(self, epsilon):
            def predict(images):
                validated.update(contents(images))
                return self.network(images)

            return predict

    def build(needed):
        return Watching(linear(), Standard(), 0.0, ATTACK, "Linf")

    run([stage("one", build=build)], tmp_path, train=split(80), loop=LOOP)
    assert (len(trained), len(validated)) == (64, 16)
    assert not trained & validated


def test_all_stages_hold_out_the_same_validation_images(tmp_path):
    validated = {}

    class Watching(NetworkTask):
        def predictor(self, epsilon):
            def predict(images):
                validated.setdefault(id(self), set()).update(contents(images))
                return self.network(images)

            return predict

    tasks = [Watching(linear(), Standard(), 0.0, ATTACK, "Linf") for _ in range(2)]
    stages = [stage(f"s{i}", build=lambda needed, i=i: tasks[i]) for i in range(2)]
    run(stages, tmp_path, train=split(80))
    assert validated[id(tasks[0])] == validated[id(tasks[1])]


def test_a_stop_in_the_last_step_of_a_stage_does_not_start_the_next_one(tmp_path):
    steps = SCHEDULE.epochs * 64 // LOOP.batch_size
    reporter = AfterSteps(steps, partial(os.kill, os.getpid(), signal.SIGINT), stage="one")
    with pytest.raises(Interrupted):
        run([stage("one"), stage("two")], tmp_path, reporter=reporter)
    assert reporter.stages == ["one"]


def test_building_a_stage_leaves_the_global_generators_alone(tmp_path):
    run([stage("one")], tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3).tolist()
    torch.manual_seed(5)
    run([stage("one")], tmp_path)  # loads only
    assert torch.rand(3).tolist() == expected
