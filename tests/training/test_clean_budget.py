"""Which epoch is kept if a trained network may lose only some clean accuracy."""

import pytest
import tiny
import torch
from tiny import learnable
from torch import nn

from equipoise import train
from equipoise.runtime.errors import InvalidInput
from equipoise.training import TrainingConfig
from equipoise.training.epoch_end import _is_better
from equipoise.training.stage_run import Position


def kept_of(epochs, budget, start=0.9):
    """The epoch that is kept, of clean accuracy and score each."""
    position = Position(accuracy={"start": {"0": start}})
    for number, (clean, score) in enumerate(epochs):
        if _is_better(position, budget, clean, score):
            position.best_epoch, position.best_score = number, score
            position.accuracy["best"] = {"0": clean}
    return position.best_epoch


@pytest.mark.parametrize(
    ("epochs", "budget", "kept"),
    [
        ([(0.88, 0.3), (0.86, 0.4), (0.80, 0.6)], None, 2),
        ([(0.88, 0.3), (0.86, 0.4), (0.80, 0.6)], 0.05, 1),
        ([(0.70, 0.6), (0.86, 0.4), (0.87, 0.3)], 0.05, 1),  # from outside into the budget
        ([(0.70, 0.6), (0.75, 0.2), (0.72, 0.7)], 0.05, 1),  # none within: the nearest
    ],
)
def test_the_most_robust_epoch_within_the_budget_is_kept(epochs, budget, kept):
    assert kept_of(epochs, budget) == kept


def test_start_and_end_are_told_and_a_missed_budget_is_a_warning(tmp_path):
    heard = []

    class Heard(tiny.AfterSteps):
        def epoch(self, text, last=False, entry=None):
            heard.extend([text] * last)

    reporter = Heard(0, None)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    data = learnable()
    fresh = train(network, data, epsilon=0.01, epochs=4, learning_rate=0.3, reporter=reporter)
    heard.clear()
    train(fresh, data, epsilon=0.9, epochs=1, clean_budget=0.01, reporter=reporter)
    assert heard[0].startswith("start, validation accuracy clean 100.0 %, 0.9 ")
    assert heard[1].startswith("kept epoch 1 of 1, validation accuracy clean ")
    missed = [line for line in reporter.lines if "no epoch is within the budget" in line]
    assert bool(missed) == ("clean 100.0 %" not in heard[1])


@pytest.mark.parametrize("budget", [0.0, 5.0])
def test_a_budget_is_a_share(budget):
    with pytest.raises(InvalidInput, match=r"clean_budget must be a share of the images in \(0, 1"):
        TrainingConfig(clean_budget=budget)
