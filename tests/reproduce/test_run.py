"""Complete reproductions, reduced to a few steps, in this process."""

import shutil
from dataclasses import replace
from functools import partial

import pytest
import safetensors.torch
import tiny
import torch

from equipoise.data import Cifar10, Digits
from equipoise.methods import TrainingAttack
from equipoise.objectives import MART, TRADES
from equipoise.recipes import RECIPES
from equipoise.recipes.networks import WideResNetShape
from equipoise.report.papers import ENTRIES, SCALES
from equipoise.reproduce import reproduce
from equipoise.reproduce.plan import plan_models
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import read_json, write_json
from equipoise.runtime.reporter import NullReporter
from equipoise.training.schedule import Schedule

CUT = replace(
    SCALES["tiny"],
    epochs=1,
    evaluation={"suites": ("quick",), "images": 8, "steps": 1, "epsilons": (0.0, 0.2)},
)


class Workers:
    """Replaces the process pool: runs each job in this process and records its name."""

    def __init__(self):
        self.names = []

    def __call__(self, work, *, workers, threads, reporter):
        for name, (function, arguments) in work.items():
            self.names.append(name)
            function(*arguments, reporter=reporter(name))


def cut(recipe):
    return replace(recipe, loop=tiny.LOOP, method=replace(recipe.method, attack=tiny.ATTACK))


@pytest.fixture(autouse=True)
def workers(monkeypatch):
    pool = Workers()
    small = {name: lambda make=make: cut(make()) for name, make in RECIPES.items()}
    monkeypatch.setattr("equipoise.reproduce.run.side_by_side", pool)
    monkeypatch.setattr("equipoise.reproduce.plan.RECIPES", small)
    monkeypatch.setattr("equipoise.reproduce.figure_data.STRENGTHS", 3)
    few = tiny.digits()
    monkeypatch.setattr(Digits, "load", lambda self: few)
    return pool


def listening(messages):
    """Reporters of which the first appends its lines to a list."""
    reporter = NullReporter()
    reporter.log = messages.append
    return lambda name: NullReporter() if name else reporter


def weights(folder, stage):
    return safetensors.torch.load_file(folder / "stages" / stage / "best.safetensors")


def test_a_dry_run_reports_what_is_left_and_trains_nothing(tmp_path, workers):
    messages = []
    made = reproduce(
        ["afs-table-3"], CUT, out=tmp_path, mode="plan", reporter=listening(messages), workers=8
    )
    assert made.files == ()
    assert workers.names == []
    assert len(messages) == 5
    assert messages[-1].endswith("with 4 at a time")
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.slow
def test_models_are_trained_once_and_shared_by_entries(tmp_path, workers):
    messages = []
    first = reproduce(["afs-table-3"], CUT, out=tmp_path, reporter=listening(messages))
    assert {path.name for path in first.files} == {
        *(f"afs-table-3.{kind}" for kind in ("md", "csv", "tex")),
        "README.md",
    }
    # The whole stack comes first; the masks use its extractors.
    assert workers.names[0] == "afs_digits 0"
    assert sorted(workers.names) == [
        "afs_digits 0",
        "afs_digits_mask_001 0",
        "afs_digits_mask_011 0",
        "afs_digits_mask_101 0",
    ]
    assert messages[0].startswith("afs_digits_mask_001, seed 0: train, evaluate, up to ")
    assert "at a time" in messages[-1]
    folders = {name: tmp_path / "tiny" / "runs" / f"{name}__seed0" for name in first.results}
    whole, masked = (
        weights(folders[name], "extractor2_0.25") for name in ("afs_digits", "afs_digits_mask_101")
    )
    assert tiny.same(whole, masked)
    assert not (folders["afs_digits_mask_101"] / "stages" / "extractor1_0.2").exists()
    # Again: nothing to do, and another entry needs only what is new.
    workers.names.clear()
    messages.clear()
    again = reproduce(["afs-table-3", "afs-fig-3"], CUT, out=tmp_path, reporter=listening(messages))
    assert workers.names == ["pgd_at_digits_budget_1 0", "pgd_at_digits 0"]
    assert (tmp_path / "tiny" / "afs-fig-3.svg").exists()
    assert again.results["afs_digits"] == first.results["afs_digits"]
    page = (tmp_path / "tiny" / "README.md").read_text()
    assert page.index("AFS Fig. 3") < page.index("AFS Table III")
    assert "At most 1 epochs per stage." in page


@pytest.mark.slow
def test_data_of_a_figure_are_computed_from_the_models_and_cached(tmp_path, workers):
    reproduce(["afa-fig-3"], CUT, out=tmp_path)
    run = tmp_path / "tiny" / "runs" / "afa_digits__seed0"
    cache = run / "figures" / "channels.json"
    data = read_json(cache)["found"]
    assert len(data["epsilons"]) == len(data["mean"]) == len(data["variance"]) == 3
    assert data["mean"][0] != data["mean"][-1]
    written = cache.stat().st_mtime_ns
    workers.names.clear()
    reproduce(["afa-fig-3"], CUT, out=tmp_path)
    assert (workers.names, cache.stat().st_mtime_ns) == ([], written)
    # Other models than those of the cache: computed again.
    write_json(cache, read_json(cache) | {"asked": {}})
    reproduce(["afa-fig-3"], CUT, out=tmp_path)
    assert read_json(cache)["found"] == data
    # Another evaluation: evaluated again, not trained.
    before = (run / "model" / "model.safetensors").stat().st_mtime_ns
    changed = replace(
        CUT, evaluation=dict(CUT.evaluation) | {"images": 12}, search_precision="bf16-mixed"
    )
    reproduction = reproduce(["afa-fig-3"], changed, out=tmp_path)
    assert workers.names == ["afa_digits 0"]
    record = reproduction.results["afa_digits"][0].record
    assert (record["images"], record["search_precision"]) == (12, "bf16-mixed")
    reproduce(["afa-fig-6"], changed, out=tmp_path, mode="finished")
    texts = {
        name: (tmp_path / "tiny" / f"{name}.md").read_text()
        for name in ENTRIES
        if (tmp_path / "tiny" / f"{name}.md").exists()
    }
    low = "attacks searched in bfloat16, scored in float32"
    assert {name: low in text for name, text in texts.items()} == {
        "afa-fig-3": False,  # computed from the model, not from an evaluation
        "afa-fig-6": True,
    }
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == before


@pytest.fixture
def stack_of_singles(monkeypatch):
    """A scale at which the two extractors of the stack are models with their own recipes."""
    stack, single = RECIPES["afs_digits"](), RECIPES["pgd_at_digits"]()
    method = replace(stack.method, budgets=(0.0, 0.2), schedule=single.method.schedule)
    small = {name: lambda make=make: cut(make()) for name, make in RECIPES.items()}
    small["afs_digits"] = lambda: cut(replace(stack, method=method))
    monkeypatch.setattr("equipoise.reproduce.plan.RECIPES", small)
    return replace(CUT, extractors=("standard_digits", "pgd_at_digits"))


@pytest.mark.slow
def test_a_stack_uses_networks_that_equal_its_extractors(tmp_path, workers, stack_of_singles):
    messages = []
    reproduce(["afs-fig-5"], stack_of_singles, out=tmp_path, reporter=listening(messages))
    assert workers.names == [
        "pgd_at_digits_budget_1 0",
        "pgd_at_digits 0",
        "standard_digits 0",
        "afs_digits 0",
    ]
    stack, *members = (
        safetensors.torch.load_file(tmp_path / "tiny" / "runs" / name / "model/model.safetensors")
        for name in ("afs_digits__seed0", "standard_digits__seed0", "pgd_at_digits__seed0")
    )
    for number, member in enumerate(members):
        prefix = f"members.{number}.network."
        inside = {key: value for key, value in stack.items() if key.startswith(prefix)}
        assert len(inside) == len(member)
        assert all(torch.equal(inside[prefix + key], value) for key, value in member.items())
    # Of what is finished, results are shown without training; other rows are only published.
    workers.names.clear()
    names = ["afs-table-4", "afs-fig-1", "afs-fig-3", "afa-fig-3", "afa-table-4", "afs-table-5"]
    reproduction = reproduce(
        names, stack_of_singles, out=tmp_path, mode="finished", reporter=listening(messages)
    )
    assert workers.names == []
    assert [entry.name for entry in reproduction.entries] == [
        "afs-table-4", "afs-fig-1", "afs-fig-3", "afs-table-5",
    ]  # fmt: skip
    assert messages[-2:] == [
        "afa-fig-3 is left out; not finished: afa_digits",
        "afa-table-4 is left out; not finished: "
        "afa_digits, afa_digits_k2, afa_digits_k5, afa_digits_k9",
    ]
    table = (tmp_path / "tiny" / "afs-table-4.md").read_text()
    assert "Not reproduced yet: FAT, TLA, TRADES, LBGAT+TRADES, AVM." in table
    assert table.count("| measured |") == 2
    assert all(label in table for label in ("FAT", "TLA", "AVM"))
    whole = (tmp_path / "tiny" / "afs-table-5.md").read_text()
    assert "Not reproduced yet" not in whole


@pytest.mark.slow
def test_a_stack_member_that_is_not_shown_is_trained_and_not_evaluated(
    tmp_path, workers, monkeypatch, stack_of_singles
):
    content = replace(ENTRIES["afs-table-6"].content, parts=(only_the_stack(),))
    entry = replace(ENTRIES["afs-table-6"], content=content)
    monkeypatch.setattr("equipoise.reproduce.run.find_entries", lambda names: [entry])
    reproduce(["x"], stack_of_singles, out=tmp_path)
    folders = {path.name: path for path in (tmp_path / "tiny" / "runs").iterdir()}
    evaluated = [name for name, path in folders.items() if list(path.glob("records/*.json"))]
    assert evaluated == ["afs_digits__seed0"]
    assert len(folders) == 3
    workers.names.clear()
    reproduce(["x"], stack_of_singles, out=tmp_path)
    assert workers.names == []


def only_the_stack():
    (part,) = ENTRIES["afs-table-6"].content.parts
    return replace(part, rows=tuple(row for row in part.rows if row.label == "AFS"))


@pytest.mark.slow
def test_a_run_folder_of_another_recipe_is_refused(tmp_path, workers):
    reproduce(["afs-fig-3"], CUT, out=tmp_path)
    longer = replace(CUT, epochs=2)
    message = (
        r"budget_1__seed0 was trained with a recipe other than.*\(differs in method.schedule.epochs"
    )
    with pytest.raises(RunError, match=message):
        reproduce(["afs-fig-3"], longer, out=tmp_path)
    # The settings of the evaluation and the folder of the data may differ.
    again = replace(CUT, evaluation=CUT.evaluation | {"images": 4})
    assert reproduce(["afs-fig-3"], again, out=tmp_path).entries


@pytest.mark.parametrize(
    ("recipe", "method"),
    [
        ({}, {"epsilon": 0.1}),
        ({}, {"objective": TRADES()}),
        ({}, {"random_budgets": (0.1, 0.2)}),
        ({}, {"schedule": Schedule(epochs=1, learning_rate=0.1)}),
        ({}, {"attack": TrainingAttack(steps=3)}),
        ({}, {"norm": "L2"}),
        ({"network": WideResNetShape(depth=10, width=2)}, {}),
        ({"loop": replace(tiny.LOOP, batch_size=7)}, {}),
        ({"dataset": Cifar10()}, {}),
    ],
)
def test_a_network_that_is_trained_differently_is_not_an_extractor(
    recipe, method, tmp_path, monkeypatch, stack_of_singles
):
    from equipoise.reproduce import plan as module

    ready = module.RECIPES["pgd_at_digits"]()
    different = replace(ready, **recipe, method=replace(ready.method, **method))
    entries = [ENTRIES["afs-fig-5"]]
    models, _ = plan_models(entries, stack_of_singles, (0,), tmp_path, None)
    assert len(models["afs_digits", 0].recipe.method.extractors) == 2
    monkeypatch.setitem(module.RECIPES, "pgd_at_digits", lambda: different)
    models, _ = plan_models(entries, stack_of_singles, (0,), tmp_path, None)
    assert models["afs_digits", 0].recipe.method.extractors == ()
    assert ("standard_digits", 0) not in models


def test_a_clean_extractor_of_another_objective_is_not_a_standard_network(
    tmp_path, monkeypatch, stack_of_singles
):
    from equipoise.reproduce import plan as module

    for name in ("afs_digits", "pgd_at_digits"):
        ready = module.RECIPES[name]()
        different = replace(ready, method=replace(ready.method, objective=MART()))
        monkeypatch.setitem(module.RECIPES, name, lambda different=different: different)
    models, _ = plan_models([ENTRIES["afs-fig-5"]], stack_of_singles, (0,), tmp_path, None)
    assert models["afs_digits", 0].recipe.method.extractors == ()


@pytest.mark.slow
def test_a_figure_of_models_is_left_out_until_one_seed_has_all_models(tmp_path, workers):
    messages = []
    reproduce(["afs-fig-3"], CUT, seeds=(0, 1), out=tmp_path)
    for name in ("pgd_at_digits_budget_1__seed0", "pgd_at_digits__seed1"):
        shutil.rmtree(tmp_path / "tiny" / "runs" / name)
    ask = partial(reproduce, ["afs-fig-3"], CUT, seeds=(0, 1), out=tmp_path, mode="finished")
    assert ask(reporter=listening(messages)).entries == ()
    assert messages == [
        "afs-fig-3 is left out; not finished: pgd_at_digits, pgd_at_digits_budget_1"
    ]
    reproduce(["afs-fig-3"], CUT, seeds=(0,), out=tmp_path)
    assert [entry.name for entry in ask().entries] == ["afs-fig-3"]


def test_missing_recipes_are_named(tmp_path):
    scale = replace(SCALES["tiny"], datasets={"cifar10": "abacus"})
    with pytest.raises(
        ValueError, match=r"has no recipe pgd_at_abacus_afs, .*afs_abacus yet; leave"
    ):
        reproduce(["afs-table-6"], scale, out=tmp_path)
    with pytest.raises(ValueError, match="seeds must hold at least one seed"):
        reproduce(["afs-table-6"], CUT, seeds=(), out=tmp_path)


def test_the_command_lists_every_entry_and_refuses_others(capsys, tmp_path):
    from equipoise.cli.main import main

    main(["reproduce", "--list"])
    printed = capsys.readouterr().out
    assert [name for name in ENTRIES if name not in printed] == []
    with pytest.raises(SystemExit, match="2"):
        main(["reproduce", "afs-table-9", "--out", str(tmp_path)])
    assert "Did you mean afs-table-" in capsys.readouterr().err


def test_the_command_prints_a_table_that_needs_no_model(capsys, tmp_path):
    from equipoise.cli.main import main

    main(["reproduce", "afs-table-5", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "48.62" in printed
    assert "Not measured at scale tiny" in " ".join(printed.split())
    assert (tmp_path / "tiny" / "afs-table-5.tex").exists()
