import json
from dataclasses import replace

import pytest
import torch
from tiny import ATTACK, LOOP, SCHEDULE, AfterSteps, fit_stage, learnable, linear, same, weights

from equipoise.attacks.threat import Linf
from equipoise.methods.single_network import NetworkTask, network_stage
from equipoise.objectives import PGDAT
from equipoise.training import BEST, TrainingMonitor
from equipoise.training.metrics import METRICS
from equipoise.training.monitors import Diagnostics, diagnose

EPOCHS = 4
STEPS = 4  # an epoch
EPSILON = 0.1


def seen(pgd=0.4, fgsm=0.5, share=0.2, truth=0.2) -> Diagnostics:
    return Diagnostics(pgd=pgd, fgsm=fgsm, top_class=1, predicted_share=share, label_share=truth)


def alarms(*history: Diagnostics) -> list[list[str]]:
    monitor = TrainingMonitor("network", {})
    return [
        monitor.check(epoch, {8 / 255: now}, best_epoch=0, last=epoch == 9)
        for epoch, now in enumerate(history)
    ]


def test_an_alarm_names_the_stage_the_epoch_the_numbers_and_the_remedy():
    first, second = alarms(seen(pgd=0.45, fgsm=0.55), seen(pgd=0.02, fgsm=0.83))
    assert first == []
    (sentence,) = second
    assert sentence == (
        "Alarm in stage network, epoch 1: accuracy under PGD at 8/255 fell to 0.020 from 0.450 in "
        "epoch 0, while under FGSM it is 0.830 and was 0.550. This is catastrophic overfitting. "
        f"{BEST} keeps the weights of epoch 0. Remedy: give the training attack more steps, "
        "shorter ones and a random start, or train at a smaller epsilon."
    )


@pytest.mark.parametrize(
    "later",
    [
        seen(pgd=0.25, fgsm=0.6),  # robust overfitting is slower
        seen(pgd=0.1, fgsm=0.2),  # everything fell: that is no overfitting
    ],
)
def test_other_losses_of_accuracy_set_no_alarm_off(later):
    assert alarms(seen(pgd=0.45, fgsm=0.55), later) == [[], []]


def test_small_numbers_set_no_alarm_off():
    assert alarms(seen(pgd=0.06, fgsm=0.1), seen(pgd=0.01, fgsm=0.2)) == [[], []]


def test_the_collapse_may_take_many_epochs():
    values = (0.45, 0.4, 0.35, 0.3, 0.25, 0.2)
    found = alarms(*(seen(pgd=value, fgsm=0.6) for value in values))
    assert [len(sentences) for sentences in found] == [0, 0, 0, 0, 0, 1]


def test_one_class_with_nearly_all_predictions_sets_the_alarm_off():
    first, (sentence,), third = alarms(*[seen(share=0.97, truth=0.19)] * 3)
    assert (first, third) == ([], [])
    assert "epoch 1: 0.97 of the validation images are predicted as class 1" in sentence
    assert "the label of 0.19" in sentence
    assert "Remedy: lower the learning rate" in sentence


def test_at_the_last_validation_once_is_enough():
    *before, last = alarms(*[seen()] * 9, seen(share=0.97))
    assert before == [[]] * 9
    assert len(last) == 1


def test_a_network_that_has_hardly_begun_may_predict_one_class_once():
    assert alarms(seen(share=1.0), seen(), seen(share=1.0), seen()) == [[]] * 4


def test_a_class_that_most_images_have_may_be_predicted_for_most():
    assert alarms(*[seen(share=0.97, truth=0.95)] * 2) == [[], []]
    assert alarms(*[seen(share=0.85, truth=0.1)] * 2) == [[], []]


def test_each_kind_is_said_once_also_after_a_resume():
    state: dict = {}
    spoken = []
    for epoch, share in enumerate((0.97, 0.98, 0.2, 0.97, 0.97)):
        monitor = TrainingMonitor("network", json.loads(json.dumps(state)))  # as from a checkpoint
        found = monitor.check(epoch, {0.1: seen(share=share)}, best_epoch=0, last=False)
        spoken.append(len(found))
        state = monitor.state
    assert spoken == [0, 1, 0, 0, 0]


def test_what_is_seen_is_what_was_counted():
    split = learnable(16)

    def predict(images):  # class 1, whatever it sees, unless it is very dark
        level = images.mean(dim=(1, 2, 3))
        bright = (level > 0.02).float() + 0 * level
        return torch.stack([1 - bright, bright], dim=1)

    found = diagnose(
        predict, split, threat=Linf(0.1), pgd=0.5, generator=torch.Generator(), batch_size=5
    )
    assert (found.top_class, found.predicted_share, found.label_share) == (1, 1.0, 0.5)
    assert (found.pgd, found.fgsm) == (0.5, 0.5)


class Turning(NetworkTask):
    """A good linear classifier that learns, after so many steps, to mislead one gradient step.

    From then on its score falls within half an epsilon of the clean image and is back at its old
    height after a whole one, where FGSM ends.
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
                place = (level - CLEAN[(level > 0.4).long()]).abs() / EPSILON
                score = bright * (0.5 - torch.sin(torch.pi * place.clamp(0, 1)))
            score = score + 0 * level
            return torch.stack([-score, score], dim=1)

        return predict


CLEAN = torch.tensor([0.1, 0.75])


def constant():
    """Validation images of one level a class, so that ``Turning`` knows how far they moved."""
    found = learnable(16)
    levels = torch.where(found.labels == 1, round(0.75 * 255), round(0.1 * 255))
    images = levels.to(torch.uint8)[:, None, None, None].expand(16, 1, 8, 8).contiguous()
    return replace(found, images=images)


def run(folder, task, alarm=True, reporter=None, **changes):
    of = network_stage(
        "network",
        lambda: linear(2),
        objective=PGDAT(),
        epsilon=EPSILON,
        attack=ATTACK,
        schedule=replace(SCHEDULE, epochs=EPOCHS),
        norm="Linf",
    )
    loop = replace(LOOP, validation_steps=6, alarms=alarm)
    changes = {"validation": constant()} | changes
    return fit_stage(of, task, folder, loop=loop, reporter=reporter, **changes)


def metrics(folder):
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def test_a_network_that_overfits_catastrophically_sets_the_alarm_off_once(tmp_path):
    reporter, task = AfterSteps(0, None), Turning(turn=2 * STEPS)
    summary = run(tmp_path, task, reporter=reporter)
    entries = metrics(tmp_path)
    assert [entry["validation"]["0.1"] for entry in entries] == [1.0, 1.0, 0.0, 0.0]
    assert [entry["fgsm"]["0.1"] for entry in entries] == [1.0, 1.0, 1.0, 1.0]
    assert [len(entry["alarms"]) for entry in entries] == [0, 0, 1, 0]
    (sentence,) = reporter.lines
    assert [sentence] == entries[2]["alarms"]
    assert "epoch 2: accuracy under PGD at 0.1 fell to 0.000 from 1.000 in epoch 0" in sentence
    assert summary["best_epoch"] == 0
    assert int(task.step) == STEPS  # the weights of the best epoch are what goes on


def test_a_healthy_network_sets_none_off(tmp_path):
    reporter = AfterSteps(0, None)
    task = NetworkTask(linear(2), PGDAT(), EPSILON, ATTACK, "Linf")
    run(tmp_path, task, reporter=reporter, validation=learnable(16))
    assert reporter.lines == []
    assert [entry["alarms"] for entry in metrics(tmp_path)] == [[]] * EPOCHS
    assert metrics(tmp_path)[-1]["largest_class"] == {"0.1": 0.5}


def test_a_network_that_says_one_class_only_sets_its_alarm_off(tmp_path):
    class Stuck(NetworkTask):
        def predictor(self, epsilon):
            return lambda images: torch.stack(
                [0 * images.sum((1, 2, 3)), 1 + 0 * images.sum((1, 2, 3))], 1
            )

    reporter = AfterSteps(0, None)
    run(tmp_path, Stuck(linear(2), PGDAT(), EPSILON, ATTACK, "Linf"), reporter=reporter)
    (sentence,) = reporter.lines
    assert "epoch 1: 1.00 of the validation images are predicted as class 1" in sentence


def test_alarms_do_not_change_what_is_trained_or_kept(tmp_path):
    tasks = [NetworkTask(linear(2), PGDAT(), EPSILON, ATTACK, "Linf") for _ in range(2)]
    summaries = [
        run(tmp_path / str(on), task, alarm=on)
        for on, task in zip((False, True), tasks, strict=True)
    ]
    assert same(*map(weights, tasks))
    assert {**summaries[0], "seconds": 0} == {**summaries[1], "seconds": 0}


def test_without_the_switch_nothing_of_it_is_measured(tmp_path):
    reporter = AfterSteps(0, None)
    run(tmp_path, Turning(turn=STEPS), alarm=False, reporter=reporter)
    assert reporter.lines == []
    assert not any({"fgsm", "alarms"} & set(entry) for entry in metrics(tmp_path))
