from dataclasses import replace

import pytest
import torch
from tiny import (
    ATTACK,
    LOOP,
    SCHEDULE,
    fabric,
    images_and_labels,
    linear,
    one_stage,
    same,
    split,
    weights,
)

from equipoise.methods.single_network import NetworkTask
from equipoise.objectives import Standard
from equipoise.training import Trainer, fit
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


def test_the_stages_schedule_may_set_another_batch_size(tmp_path):
    """AFS's merger has batches of 100 where its extractors have the loop's 128."""
    assert trainer().config.batch_size == LOOP.batch_size == 16
    smaller = replace(SCHEDULE, batch_size=10)
    assert trainer(smaller).config.batch_size == 10
    seen = []
    trained = trainer(smaller)
    trained.task.register_forward_pre_hook(
        lambda module, inputs: (module.training and seen.append(len(inputs[0]))) or None
    )
    fit(trained, split(32), split(16), tmp_path)
    assert seen == [10, 10, 10] * SCHEDULE.epochs


def test_a_batch_size_below_1_is_refused():
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        replace(SCHEDULE, batch_size=0)


def test_a_term_that_is_unknown_in_a_part_is_the_mean_of_the_others():
    trained = trainer()
    loss = torch.ones((), requires_grad=True)
    answers = iter([torch.tensor(torch.nan), torch.tensor(3.0)])
    trained.wrapped = lambda *_: {"loss": loss * 1.0, "weight": next(answers)}
    trained.parts = 2
    result = trained.step(*images_and_labels(8), 0.0)
    assert dict(zip(result.names, result.values.tolist(), strict=True)) == {"loss": 1, "weight": 3}
