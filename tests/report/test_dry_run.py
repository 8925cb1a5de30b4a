import pytest
from rich.console import Console

from equipoise.report.dry_run import duration, rich_costs, short

STAGE = {
    "stage": "network",
    "like": None,
    "parameters": 36_479_194,
    "trained": 36_479_194,
    "multiply_adds": 5_243_328_768,
    "passes_an_image": (11.0, 11.0),
    "forward_passes_an_epoch": 538_000,
    "backward_passes_an_epoch": 538_000,
    "epochs": 100,
    "steps_an_epoch": 382,
    "batch": 128,
    "memory": 12_300_000_000,
    "seconds_a_step": 1.5,
    "seconds_a_validation": 30.0,
    "seconds": 60_300.0,
    "measured": {"batch": 4, "steps": 2, "seconds": 0.047},
}


def printed(*stages, device="cpu"):
    cost = {
        "recipe": "mine",
        "device": device,
        "stages": list(stages),
        "seconds": sum(stage["seconds"] for stage in stages),
        "memory": max(stage["memory"] for stage in stages),
    }
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(rich_costs(cost))
    console.file.close()
    return " ".join(console.export_text().replace("│", " ").split())


def test_a_stage_is_a_column_with_its_measurements():
    text = printed(STAGE)
    for row in (
        *("parameters 36.5 M", "trained parameters 36.5 M", "multiply-adds per image 5.24 G"),
        *("passes per image and step 11 + 11", "passes per epoch 538 k + 538 k", "epochs 100"),
        *("steps per epoch 382 of 128 images", "measured 2 steps of 4 images, 0.047 s each"),
        *("time per step 1.5 s", "time per validation 30 s", "memory 12.3 GB", "total time 16.8 h"),
    ):
        assert f" {row} " in text
    assert "total: 16.8 h, 12.3 GB of memory" in text
    assert "the peak of the process" in text


def test_stages_of_the_same_cost_share_a_column_and_each_counts():
    text = printed(STAGE, STAGE | {"stage": "other", "like": "network"}, device="cuda:0")
    assert " network, and 1 of the same cost " in text
    assert "other" not in text
    assert "total: 33.5 h" in text
    assert "the peak of the device" in text


def test_passes_that_were_not_counted_are_a_dash():
    assert "passes per image and step - " in printed(STAGE | {"passes_an_image": (0.0, 0.0)})


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (999.6, "1 k"), (36_479_194, "36.5 M"), (4e15, "4 P")],
)
def test_counts_have_three_digits_and_a_unit(number, text):
    assert short(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "0.0123 s"), (89, "89 s"), (90, "1.5 min"), (7200, "2 h"), (864_000, "10 days")],
)
def test_times_have_a_suitable_unit(seconds, text):
    assert duration(seconds) == text
