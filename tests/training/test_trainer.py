from dataclasses import replace

import pytest
import torch
from tiny import ATTACK, LOOP, SCHEDULE, fabric, images_and_labels, linear, one_stage, same, weights

from equipoise.methods.single_network import NetworkTask
from equipoise.objectives import Standard
from equipoise.training import Trainer
from equipoise.training.trainer import NonFiniteLossError


def trainer(schedule=SCHEDULE) -> Trainer:
    stage = one_stage(linear, schedule=schedule)
    return Trainer(stage, stage.build({}), LOOP, fabric(), seed=0)


def test_a_step_equals_a_plain_optimiser_step():
    images, labels = images_and_labels(8)
    trained, plain = trainer(), NetworkTask(linear(), Standard(), 0.0, ATTACK, "Linf")
    optimiser = SCHEDULE.make_optimiser(list(plain.parameters()))
    for progress in (0.0, 0.5):
        result = trained.step(images, labels, progress)
        optimiser.zero_grad()
        loss = plain(images, labels, torch.Generator(), progress)["loss"]
        loss.backward()
        optimiser.step()
        assert result.loss == loss.item()
        assert result.names == ["loss"]
    assert same(weights(trained.task), weights(plain))


def test_the_learning_rate_follows_the_progress():
    images, labels = images_and_labels(8)
    falling = trainer(replace(SCHEDULE, shape="cosine"))
    falling.step(images, labels, 0.5)
    assert falling.optimiser.param_groups[0]["lr"] == pytest.approx(SCHEDULE.learning_rate / 2)


def test_a_nonfinite_loss_changes_no_weight():
    images, labels = images_and_labels(8)
    trained = trainer()
    before = weights(trained.task)
    with pytest.raises(NonFiniteLossError, match=r"became nan\. Lower the learning rate"):
        trained.step(images * torch.nan, labels, 0.0)
    assert same(weights(trained.task), before)
