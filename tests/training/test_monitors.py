import json
from dataclasses import replace

import pytest
import torch
from tiny import (
    ATTACK,
    LOOP,
    SCHEDULE,
    AfterSteps,
    fit_stage,
    learnable,
    linear,
    one_stage,
    same,
    weights,
)

from equipoise.attacks.threat import Linf
from equipoise.methods.single_network import NetworkTask
from equipoise.objectives import PGDAT
from equipoise.training import BEST, TrainingMonitor
from equipoise.training.metrics import METRICS
from equipoise.training.monitors import Diagnostics, diagnose

EPOCHS = 4
STEPS = 4  # per epoch
EPSILON = 0.1


def diagnostics(pgd=0.4, fgsm=0.5, share=0.2, truth=0.2) -> Diagnostics:
    return Diagnostics(pgd=pgd, fgsm=fgsm, top_class=1, predicted_share=share, label_share=truth)


def alarms(*history: Diagnostics) -> list[list[str]]:
    monitor = TrainingMonitor("network", {})
    return [
        monitor.check(epoch, {8 / 255: now}, best_epoch=0, last=epoch == 9)
        for epoch, now in enumerate(history)
    ]


def test_an_alarm_names_the_stage_the_epoch_the_numbers_and_the_remedy():
    first, second = alarms(diagnostics(pgd=0.45, fgsm=0.55), diagnostics(pgd=0.02, fgsm=0.83))
    assert first == []
    (alarm_text,) = second
    assert alarm_text == (
        "Alarm in stage network, epoch 1: accuracy under PGD at 8/255 fell to 0.020 from 0.450 in "
        "epoch 0, while under FGSM it is 0.830 and was 0.550. This is catastrophic overfitting. "
        f"{BEST} keeps the weights of epoch 0. Remedy: give the training attack more steps, "
        "shorter ones and a random start, or train at a smaller epsilon."
    )


@pytest.mark.parametrize(
    "later",
    [
        diagnostics(pgd=0.25, fgsm=0.6),  # robust overfitting is slower than this
        diagnostics(pgd=0.1, fgsm=0.2),  # accuracy under FGSM fell as well
    ],
)
def test_other_losses_of_accuracy_raise_no_alarm(later):
    assert alarms(diagnostics(pgd=0.45, fgsm=0.55), later) == [[], []]


def test_small_accuracies_raise_no_alarm():
    assert alarms(diagnostics(pgd=0.06, fgsm=0.1), diagnostics(pgd=0.01, fgsm=0.2)) == [[], []]


def test_a_collapse_over_many_epochs_raises_an_alarm():
    values = (0.45, 0.4, 0.35, 0.3, 0.25, 0.2)
    raised = alarms(*(diagnostics(pgd=value, fgsm=0.6) for value in values))
    assert [len(sentences) for sentences in raised] == [0, 0, 0, 0, 0, 1]


def test_one_class_with_nearly_all_predictions_raises_an_alarm():
    first, (alarm_text,), third = alarms(*[diagnostics(share=0.97, truth=0.19)] * 3)
    assert (first, third) == ([], [])
    assert "epoch 1: 0.97 of the validation images are predicted as class 1" in alarm_text
    assert "the label of 0.19" in alarm_text
    assert "Remedy: lower the learning rate" in alarm_text


def test_a_single_collapsed_validation_raises_an_alarm_at_the_end():
    *before, last = alarms(*[diagnostics()] * 9, diagnostics(share=0.97))
    assert before == [[]] * 9
    assert len(last) == 1


def test_a_single_collapsed_validation_raises_no_alarm_before_the_end():
    assert (
        alarms(diagnostics(share=1.0), diagnostics(), diagnostics(share=1.0), diagnostics())
        == [[]] * 4
    )


def test_predicting_a_frequent_class_raises_no_alarm():
    assert alarms(*[diagnostics(share=0.97, truth=0.95)] * 2) == [[], []]
    assert alarms(*[diagnostics(share=0.85, truth=0.1)] * 2) == [[], []]


def test_each_kind_of_alarm_is_raised_once_even_after_a_resume():
    state: dict = {}
    counts = []
    for epoch, share in enumerate((0.97, 0.98, 0.2, 0.97, 0.97)):
        monitor = TrainingMonitor("network", json.loads(json.dumps(state)))  # as from a checkpoint
        raised = monitor.check(epoch, {0.1: diagnostics(share=share)}, best_epoch=0, last=False)
        counts.append(len(raised))
        state = monitor.state
    assert counts == [0, 1, 0, 0, 0]


def test_diagnostics_are_counted_correctly():
    split = learnable(16)

    def predict(images):  # class 1, whatever it sees, unless it is very dark
        level = images.mean(dim=(1, 2, 3))
        bright = (level > 0.02).float() + 0 * level
        return torch.stack([1 - bright, bright], dim=1)

    measured = diagnose(
        predict, split, threat=Linf(0.1), pgd=0.5, generator=torch.Generator(), batch_size=5
    )
    assert (measured.top_class, measured.predicted_share, measured.label_share) == (1, 1.0, 0.5)
    assert (measured.pgd, measured.fgsm) == (0.5, 0.5)


class Turning(NetworkTask):
    """Linear classifier that fools a single gradient step after ``turn`` training steps.

    From then on, its score falls up to half an epsilon away from the clean image and recovers at a
    whole epsilon, where FGSM ends.
    """

    def __init__(self, turn: int) -> None:
        super().__init__(linear(2), PGDAT(), EPSILON, ATTACK, "Linf")
        self.turn = turn
        self.register_buffer("step", torch.tensor(0))

    def forward(self, images, labels, generator, progress):
        self.step += 1
        return super().forward(images, labels, generator, progress)

    def predictor(self, epsilon):
        def predict(images):
            level = images.mean(dim=(1, 2, 3))
            bright = torch.where(level > 0.4, 1.0, -1.0)
            score = bright  # right, far from the boundary, whatever a small step does
            if int(self.step) > self.turn:
                distance = (level - CLEAN[(level > 0.4).long()]).abs() / EPSILON
                score = bright * (0.5 - torch.sin(torch.pi * distance.clamp(0, 1)))
            score = score + 0 * level
            return torch.stack([-score, score], dim=1)

        return predict


CLEAN = torch.tensor([0.1, 0.75])


def constant():
    """Return validation images with one grey level per class, which ``Turning`` relies on."""
    validation = learnable(16)
    levels = torch.where(validation.labels == 1, round(0.75 * 255), round(0.1 * 255))
    images = levels.to(torch.uint8)[:, None, None, None].expand(16, 1, 8, 8).contiguous()
    return replace(validation, images=images)


def run(folder, task, alarm=True, reporter=None, **changes):
    schedule = replace(SCHEDULE, epochs=EPOCHS)
    of = one_stage(lambda: linear(2), PGDAT(), EPSILON, schedule=schedule)
    loop = replace(LOOP, validation_steps=6, alarms=alarm)
    changes = {"validation": constant()} | changes
    return fit_stage(of, task, folder, loop=loop, reporter=reporter, **changes)


def metrics(folder):
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def test_catastrophic_overfitting_raises_one_alarm(tmp_path):
    reporter, task = AfterSteps(0, None), Turning(turn=2 * STEPS)
    summary = run(tmp_path, task, reporter=reporter)
    entries = metrics(tmp_path)
    assert [entry["validation"]["0.1"] for entry in entries] == [1.0, 1.0, 0.0, 0.0]
    assert [entry["fgsm"]["0.1"] for entry in entries] == [1.0, 1.0, 1.0, 1.0]
    assert [len(entry["alarms"]) for entry in entries] == [0, 0, 1, 0]
    (alarm_text,) = reporter.lines
    assert [alarm_text] == entries[2]["alarms"]
    assert "epoch 2: accuracy under PGD at 0.1 fell to 0.000 from 1.000 in epoch 0" in alarm_text
    assert summary["best_epoch"] == 0
    assert int(task.step) == STEPS  # the weights of the best epoch are kept


def test_a_healthy_network_raises_no_alarm(tmp_path):
    reporter = AfterSteps(0, None)
    task = NetworkTask(linear(2), PGDAT(), EPSILON, ATTACK, "Linf")
    run(tmp_path, task, reporter=reporter, validation=learnable(16))
    assert reporter.lines == []
    assert [entry["alarms"] for entry in metrics(tmp_path)] == [[]] * EPOCHS
    assert metrics(tmp_path)[-1]["largest_class"] == {"0.1": 0.5}


def test_a_network_that_predicts_one_class_raises_an_alarm(tmp_path):
    class Stuck(NetworkTask):
        def predictor(self, epsilon):
            return lambda images: torch.stack(
                [0 * images.sum((1, 2, 3)), 1 + 0 * images.sum((1, 2, 3))], 1
            )

    reporter = AfterSteps(0, None)
    run(tmp_path, Stuck(linear(2), PGDAT(), EPSILON, ATTACK, "Linf"), reporter=reporter)
    alarm_text, warning = reporter.lines
    assert "epoch 1: 1.00 of the validation images are predicted as class 1" in alarm_text
    assert "the accuracy is at chance: 50.0 %" in warning


def test_alarms_do_not_change_the_weights(tmp_path):
    tasks = [NetworkTask(linear(2), PGDAT(), EPSILON, ATTACK, "Linf") for _ in range(2)]
    summaries = [
        run(tmp_path / str(on), task, alarm=on)
        for on, task in zip((False, True), tasks, strict=True)
    ]
    assert same(*map(weights, tasks))
    times = {"seconds": 0, "processor_seconds": 0}
    assert summaries[0] | times == summaries[1] | times


def test_without_alarms_no_diagnostics_are_measured(tmp_path):
    reporter = AfterSteps(0, None)
    run(tmp_path, Turning(turn=STEPS), alarm=False, reporter=reporter)
    assert reporter.lines == []
    assert not any({"fgsm", "alarms"} & set(entry) for entry in metrics(tmp_path))
