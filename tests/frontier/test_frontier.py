"""Candidates, budgets, choice, and a whole frontier on few digits."""

import json
from dataclasses import replace

import pytest
import tiny

from equipoise.frontier import (
    FrontierSettings,
    contender,
    fit_to_budget,
    frontier,
    parse_contender,
)
from equipoise.frontier.budget import schedules_of, seconds_an_epoch
from equipoise.recipes import RECIPES
from equipoise.report.frontier import frontier_table, half, rows_of, verdict
from equipoise.runtime.errors import InvalidInput

BEST = "At equal training cost, {} (ε 8/255) has the highest half, {}"


def test_training_strengths_are_shares_of_the_strongest_attack():
    candidates = contender("pgd_at").candidates()
    assert [each.recipe.method.epsilon for each in candidates] == pytest.approx(
        [0.1, 0.125, 0.15, 0.175, 0.2]
    )
    assert len({each.key() for each in candidates}) == 5


def test_a_preference_is_trained_once():
    candidates = contender("oat").candidates()
    assert {each.key() for each in candidates} == {"oat"}
    assert [each.preference for each in candidates] == [0.0, 0.2, 0.5, 1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pgd", r"must be one of pgd_at, .* got 'pgd'; did you mean pgd_at"),
        ("iat=3", "iat has no knob, got values"),
        ("nothing:method.epsilon=0.1", "there is no recipe 'nothing'"),
        ("pgd_at=strong", "epsilon must be a number"),
        ("trades_digits:method.objective.gamma=1", "no field method.objective.gamma"),
        ("trades_digits:method.epsilon", "needs at least one value"),
    ],
)
def test_contenders_that_mean_nothing(text, message):
    with pytest.raises(InvalidInput, match=message):
        parse_contender(text).candidates()


@pytest.mark.parametrize("name", ["pgd_at_digits", "afa_digits", "afs_digits"])
@pytest.mark.parametrize("budget", [60.0, 100.0, 1000.0])
def test_epochs_fill_the_budget_and_never_exceed_it(name, budget):
    recipe = RECIPES[name]()
    an_epoch = dict(zip(schedules_of(recipe), (10.0, 40.0), strict=False))
    fitted = fit_to_budget(recipe, an_epoch, budget)
    epochs = {field: schedule.epochs for field, schedule in schedules_of(fitted).items()}
    spent = sum(an_epoch[field] * count for field, count in epochs.items())
    assert budget - max(an_epoch.values()) < spent <= budget
    assert min(epochs.values()) >= 1
    assert fitted.loop.validate_every > max(epochs.values())


def test_a_budget_below_one_epoch_is_refused():
    with pytest.raises(InvalidInput, match="needs 30 s for one epoch of each stage, got a budget"):
        fit_to_budget(RECIPES["pgd_at_digits"](), {"schedule": 30.0}, 20.0)


@pytest.mark.slow
def test_every_schedule_has_a_measured_cost():
    recipe = RECIPES["afa_digits"]()
    measured = seconds_an_epoch(recipe, tiny.digits(), seconds=0.1)
    assert set(measured) == {"schedule", "gate_schedule"}
    assert min(measured.values()) > 0


def test_the_interval_of_half_is_wider_with_seeds_that_differ():
    run = {"clean": 0.8, "worst": 0.4, "images": 1000}
    same, differing = half([run, run]), half([run, run | {"worst": 0.5}])
    assert same == pytest.approx(half([run]))
    assert differing[1] > 2 * same[1]


def point(method, clean, worst, **changes):
    test = [{"clean": clean, "worst": worst, "images": 1000, "failed_checks": []}]
    return {
        "method": method,
        "knob": "method.epsilon",
        "value": 8 / 255,
        "runs": [{"seconds": 10.0, "multiply_adds": 100}],
        "test": test,
        "chosen": True,
    } | changes


def document(*points):
    return {
        "data": "digits",
        "budget": 60,
        "unit": "processor seconds",
        "epsilon": 8 / 255,
        "norm": "Linf",
        "suites": ["quick"],
        "points": list(points),
    }


def test_the_sentences_name_the_best_at_both_accounts():
    dear = point("afs", 0.9, 0.6, runs=[{"seconds": 10.0, "multiply_adds": 300}])
    made = document(point("pgd_at", 0.8, 0.5), dear, point("trades", 0.8, 0.49))
    first, second = verdict(made)
    assert first.startswith("At equal training cost, afs (ε 8/255) has the highest half, 75.0")
    assert "pgd_at (ε 8/255) is 10.0 points lower, which the intervals tell apart" in first
    assert second.startswith("At equal training and equal inference cost, pgd_at")
    assert "less than the intervals tell apart" in second
    table = frontier_table(made)
    assert "| **afs** | ε 8/255 | 90.0 | 60.0 | 75.0 ± 2.1 | 10 s | 3.00 | 1 |" in table
    assert table.index("afs") < table.index("pgd_at") < table.index("trades")


def test_a_choice_that_failed_its_checks_is_not_the_best():
    failed = point("afa", 0.9, 0.8)
    failed["test"][0]["failed_checks"] = ["black box"]
    made = document(point("pgd_at", 0.8, 0.5), failed)
    assert verdict(made) == ["At equal training cost, pgd_at (ε 8/255) has the highest half, 65.0."]
    assert "(failed: black box)" in frontier_table(made)


@pytest.mark.slow
@pytest.mark.usefixtures("no_self_checks")
def test_a_frontier_is_planned_trained_chosen_judged_and_continued(tmp_path, monkeypatch):
    dataset = tiny.digits()
    monkeypatch.setattr("equipoise.data.Digits.load", lambda self: dataset)
    monkeypatch.setattr("equipoise.frontier.run.side_by_side", one_after_another)
    small = replace(tiny.recipe("pgd_at_digits"), name="pgd_at_digits")
    evaluation = replace(small.evaluation, epsilons=(0.0, 0.2), steps=1, images=None)
    one = replace(
        contender("pgd_at", values=(0.1, 0.2)), recipe=replace(small, evaluation=evaluation)
    )
    oat = replace(
        contender("oat", values=(0.0, 1.0)),
        recipe=replace(tiny.recipe("oat_digits"), evaluation=evaluation),
    )
    settings = FrontierSettings(
        budget=5.0, validation_images=20, test_images=12, suites=("tables",), checks=False
    )
    plan = frontier([one, oat], tmp_path, settings, plan_only=True)
    assert [made["name"] for made in plan.points] == [
        *("pgd_at__epsilon_0.1", "pgd_at__epsilon_0.2"),
        *("oat", "oat"),
    ]
    assert not (tmp_path / "runs").exists()
    made = frontier([one, oat], tmp_path, settings)
    epochs = json.loads((tmp_path / "plan.json").read_text())["runs"]
    assert [sum(about["epochs"].values()) >= 1 for about in epochs.values()] == [True] * 3
    written = json.loads((tmp_path / "frontier.json").read_text())
    rows = rows_of(written)
    assert {row["method"] for row in rows if row["chosen"]} == {"pgd_at", "oat"}
    assert all(row["images"] == 12 and row["seconds"] > 0 for row in rows)
    assert {path.name for path in made.files} == {
        f"frontier.{kind}" for kind in ("json", "md", "svg", "png")
    }
    again = frontier([one, oat], tmp_path, settings)  # nothing is trained again
    assert [p["test"] for p in again.points if "test" in p] == [
        p["test"] for p in made.points if "test" in p
    ]
    with pytest.raises(InvalidInput, match="with a budget of 5 s, got 6"):
        frontier([one, oat], tmp_path, replace(settings, budget=6.0))


def one_after_another(work, *, workers, threads, reporter):
    return {
        name: function(*arguments, reporter=reporter(name))
        for name, (function, arguments) in work.items()
    }
