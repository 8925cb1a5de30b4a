"""Lines in a log where no bar can be drawn: one a stage, one an epoch, one a minute."""

import io

import pytest
from rich.console import Console

from equipoise.runtime.progress import Terminal


class Clock:
    """Seconds that a test sets."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def lines_of(clock, terminal=False):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=200, no_color=True)
    return Terminal(console, clock), lambda: file.getvalue().splitlines()


def test_a_long_stage_says_once_a_minute_how_far_it_is(clock):
    bar, lines = lines_of(clock)
    bar.begin("network", 1000, 0)
    for second in range(0, 200, 10):
        clock.now = second
        bar.step(second * 2, f"loss {second}")
    assert lines() == [
        "network: 1000 steps",
        "network: 12 %, loss 60, 7:20 left",
        "network: 24 %, loss 120, 6:20 left",
        "network: 36 %, loss 180, 5:20 left",
    ]


def test_epochs_are_lines_and_put_off_the_next_line(clock):
    bar, lines = lines_of(clock)
    bar.begin("network", 100, 0)
    clock.now = 50
    bar.step(50, "epoch 1")
    bar.epoch("epoch 1 of 2, loss 1.000")
    clock.now = 100
    bar.step(90, "epoch 2")  # 50 seconds after the line
    bar.epoch("kept epoch 2 of 2", last=True)
    assert lines() == [
        "network: 100 steps",
        "network: epoch 1 of 2, loss 1.000, 0:50 left",
        "network: kept epoch 2 of 2",
    ]


def test_work_in_thousandths_and_a_resumed_stage_are_told(clock):
    bar, lines = lines_of(clock)
    named = bar.named("afa")
    named.begin("evaluate", 0, 0)
    clock.now = 90
    named.step(250, "APGD")
    bar.begin("gate", 100, 50)
    clock.now = 150
    bar.step(75, "loss 1")
    assert lines() == [
        "afa evaluate",
        "afa evaluate: 25 %, APGD, 4:30 left",
        "gate: 100 steps, 50 done",
        "gate: 75 %, loss 1, 1:00 left",
    ]


def test_in_a_terminal_only_the_end_of_a_stage_is_a_line(clock):
    bar, lines = lines_of(clock, terminal=True)
    bar.begin("network", 100, 0)
    clock.now = 500
    bar.step(50, "epoch 1")
    bar.epoch("epoch 1 of 2")
    assert lines() == []
    bar.epoch("kept epoch 2 of 2", last=True)
    assert lines() == ["network: kept epoch 2 of 2"]
