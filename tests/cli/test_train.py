"""Flags of ``equipoise train``: short names, all fields of a recipe, refusals."""

import re
from dataclasses import replace

import pytest
import torch
import user_nets
from commands import output, refused, run, shown_help

from equipoise.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("few_digits")
COMMON = (
    "--epochs --batch-size --learning-rate --seed --name --dataset --data --network --out "
    "--resume --devices --dry-run --evaluate --export --help-all"
)


@pytest.fixture
def trained(monkeypatch):
    """Recipes that the command line would have trained, without training them."""
    recipes = []
    monkeypatch.setattr(
        "equipoise.api.train.train", lambda recipe, folder, **rest: recipes.append(recipe)
    )
    return recipes


def flags_in(text: str) -> list[str]:
    """Flags that a help text explains, in order."""
    return re.findall(r"^[ │] (?:-h, )?(--[a-z][a-z.-]+)", text, re.M)


@pytest.mark.parametrize(
    ("recipe", "strength"),
    [
        ("pgd_at_digits", "--epsilon"),
        ("oat_digits", "--epsilon"),
        ("afa_digits", "--strengths"),
        ("afs_digits", "--budgets"),
        ("random_budget_digits", "--random-budgets"),
    ],
)
def test_help_shows_the_flags_that_most_people_need(capsys, recipe, strength):
    flags = flags_in(shown_help(capsys, "train", recipe, "--help"))
    assert {*COMMON.split(), strength} <= {*flags}
    assert len(flags) <= 19


def test_help_all_shows_every_field_of_the_recipe(capsys):
    text = shown_help(capsys, "train", "pgd_at_digits", "--help-all")
    flags = flags_in(text)
    long = "--method.epsilon --loop.batch-size --method.schedule.epochs --seed --resume --nodes"
    assert {*long.split()} <= {*flags}
    assert "--epochs for --method.schedule.epochs" in " ".join(text.split())
    assert len(flags) > 60


def test_help_names_the_value_that_a_recipe_has(capsys):
    text = " ".join(shown_help(capsys, "train", "afa_digits", "--help").replace("│", "").split())
    assert "ascending from 0. (default: 0 0.1 0.2)" in text
    assert "Epochs of stage I (stage II: --method.gate-schedule). (default: 30)" in text


@pytest.mark.parametrize("columns", ["80", "120"])
def test_no_line_of_a_help_text_is_wider_than_the_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    for arguments in (["train", "afs_digits", "--help"], ["train", "afs_digits", "--help-all"]):
        text = shown_help(capsys, *arguments)
        options = text[text.index("options") :].splitlines()
        assert max(map(len, options)) <= int(columns)


@pytest.mark.parametrize(
    ("name", "short", "long"),
    [
        ("pgd_at_digits", "--epochs 3", "--method.schedule.epochs 3"),
        ("pgd_at_digits", "--learning-rate=0.5", "--method.schedule.learning-rate 0.5"),
        ("pgd_at_digits", "--batch-size 16", "--loop.batch-size 16"),
        ("pgd_at_digits", "--epsilon 8/255", "--method.epsilon 8/255"),
        ("oat_digits", "--epsilon=8/255", "--method.epsilon 8/255"),
        ("afa_digits", "--epochs 3", "--method.schedule.epochs 3"),
        ("afa_digits", "--strengths 0 0.1", "--method.strengths 0 0.1"),
        ("afs_digits", "--epochs 3 --budgets 0 0.1", "--method.schedule.epochs 3 "
         "--method.budgets 0 0.1"),
        ("random_budget_digits", "--random-budgets 0 0.1", "--method.random-budgets 0 0.1"),
    ],
)  # fmt: skip
def test_a_short_flag_sets_the_field_of_its_long_flag(trained, name, short, long, tmp_path):
    for flags in (short, long):
        run("train", name, "--out", tmp_path, *flags.split())
    assert trained[0] == trained[1] != RECIPES[name]()


def test_short_flags_of_a_stack_set_the_schedule_of_its_merger(trained):
    run("train", "afs_digits", "--extractors", "a:b", "c:d", "--epochs", "3")
    assert trained[0].method.merger_schedule.epochs == 3
    assert trained[0].method.schedule == RECIPES["afs_digits"]().method.schedule


def test_short_flags_of_a_stack_of_saved_models_set_its_merger():
    from equipoise.cli.train_options import short_flags

    recipe = RECIPES["afs_digits"]()
    stacked = replace(recipe, method=replace(recipe.method, extractors=("a:b",), budgets=()))
    flags = short_flags(stacked)
    assert flags == short_flags(recipe, extractors=True)
    assert flags["--epochs"].path == "method.merger-schedule.epochs"
    assert flags["--learning-rate"].path == "method.merger-schedule.learning-rate"
    assert flags["--epsilon"].path == "method.merger-epsilon"


@pytest.mark.parametrize(
    ("recipe", "remedy"),
    [
        ("afa_digits", "--strengths 0 0.1 0.2"),
        ("afs_digits", "--budgets 0.15 0.2 0.25"),
        ("random_budget_digits", "--random-budgets"),
    ],
)
def test_epsilon_is_refused_for_several_strengths_and_the_right_flag_named(
    capsys, trained, recipe, remedy
):
    for flag in (["--epsilon", "8/255"], ["--epsilon=8/255"]):
        printed = refused(capsys, "train", recipe, *flag)
        assert f"{recipe} trains at several strengths, so --epsilon does not apply" in printed
        assert remedy in printed
    assert trained == []


@pytest.mark.slow
def test_a_dry_run_prints_the_cost_and_trains_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    run(
        *("train", "pgd_at_digits", "--dry-run", "--loop.batch-size", "8"),
        *("--loop.validation-images", "16", "--method.attack.steps", "2"),
    )
    printed = output(capsys)
    assert "Cost of training pgd_at_digits on cpu" in printed
    for part in ("77.6 k", "764 k", "3 + 3", "12 of 8 images", "total:"):
        assert part in printed
    assert re.search(r" steps of [1-8] images", printed)  # fewer images on a busy machine
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["--method.epsilon", "--epsilon", "--evaluation.epsilons"])
def test_an_epsilon_of_8_is_refused_with_the_remedy(capsys, tmp_path, flag):
    printed = refused(capsys, "train", "pgd_at_digits", flag, "8", "--out", tmp_path / "run")
    assert "epsilon must be in [0, 1] pixel units, got 8." in printed
    assert "write 8/255" in printed
    assert not (tmp_path / "run").exists()


def test_a_step_of_2_is_refused_with_the_remedy(capsys, tmp_path):
    printed = refused(
        capsys,
        *("train", "pgd_at_digits", "--out", tmp_path / "run"),
        *("--method.attack.step-size", "2", "--method.attack.relative-step", "None"),
    )
    assert "write 2/255" in printed
    assert not (tmp_path / "run").exists()


def test_an_epsilon_above_1_is_allowed_with_l2(trained, tmp_path):
    run(
        *("train", "pgd_at_digits", "--method.norm", "L2", "--method.epsilon", "3"),
        *("--evaluation.norm", "L2", "--evaluation.epsilons", "0", "1.5", "3", "--out", tmp_path),
        *("--method.attack.step-size", "1.5", "--method.attack.relative-step", "None"),
    )
    assert trained[0].method.attack.step_size == 1.5
    assert trained[0].method.epsilon == 3.0
    assert trained[0].evaluation.epsilons == (0.0, 1.5, 3.0)


def test_an_epsilon_may_be_written_as_a_fraction(trained, tmp_path):
    run("train", "pgd_at_digits", "--method.epsilon", "8/255", "--out", tmp_path)
    assert trained[0].method.epsilon == 8 / 255
    assert (
        replace(trained[0], method=RECIPES["pgd_at_digits"]().method) == RECIPES["pgd_at_digits"]()
    )


def test_flags_change_nested_fields_and_only_those(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(
        "equipoise.api.train.train",
        lambda recipe, folder, **rest: calls.append((recipe, rest)),
    )
    run(
        *("train", "afa_digits", "--out", tmp_path, "--resume", "--seed", "3"),
        *("--method.gate.hidden", "8", "--method.schedule.epochs", "5"),
    )
    ((recipe, rest),) = calls
    base = RECIPES["afa_digits"]()
    method = replace(
        base.method,
        gate=replace(base.method.gate, hidden=8),
        schedule=replace(base.method.schedule, epochs=5),
    )
    assert recipe == replace(base, seed=3, method=method)
    assert rest["resume"]


def test_a_value_out_of_range_is_refused_with_the_rule(capsys, tmp_path):
    printed = refused(
        capsys, "train", "afs_digits", "--method.alpha", "2", "--out", tmp_path / "run"
    )
    assert "alpha must be in [0, 1], got 2" in printed


@pytest.mark.parametrize(
    ("flags", "threads"),
    [
        (["--threads", "3"], 3),
        (["--executor", "ray"], 1),
        (["--executor", "ray", "--threads", "2"], 2),
    ],
)
def test_a_run_has_as_many_threads_as_asked_for_and_one_on_ray(monkeypatch, flags, threads):
    import torch

    from equipoise.cli import train as command_line

    found = []
    before = torch.get_num_threads()
    command = command_line.parse("afs_digits", flags)

    def stop(*arguments, **settings):
        found.append((torch.get_num_threads(), settings["elsewhere"]))

    monkeypatch.setattr("equipoise.api.train.train", stop)
    try:
        command_line._train(command)
    finally:
        torch.set_num_threads(before)
    ((seen, executor),) = found
    assert seen == threads
    assert executor is None or executor.cpus == threads


@pytest.mark.slow
@pytest.mark.usefixtures("no_self_checks")
def test_before_and_after_are_in_one_table(capsys, tmp_path):
    torch.save(user_nets.small(10, 1).state_dict(), tmp_path / "start.pth")
    run(
        *("train", "pgd_at_digits", "--network", f"user_nets:small@{tmp_path / 'start.pth'}"),
        *("--epochs", 1, "--evaluation.images", 8, "--evaluation.suites", "tables", "--evaluate"),
        *("--out", tmp_path / "run"),
    )
    printed = output(capsys)
    for name in ("pgd_at_digits_start", "pgd_at_digits"):
        assert f"record: {tmp_path / 'run'}" in printed
        assert len(re.findall(rf"{name} [0-9]", printed)) >= 1
    assert list((tmp_path / "run" / "start" / "records").glob("*.json"))
