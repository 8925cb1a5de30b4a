"""Attacks, suites, readers and recipes of a user's package, which lies outside the source tree."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import tiny
from commands import output, refused, run

import equipoise
from equipoise.api.evaluation_settings import trusted_code
from equipoise.api.train import find_recipe
from equipoise.data import DataError, DataSet, DataSource, Digits, ImportedData, recognise
from equipoise.evaluation.imported import imported_suite
from equipoise.evaluation.suites import suites_for
from equipoise.objectives.imported import _made
from equipoise.recipes import RECIPES, from_json, to_json
from equipoise.records.files import iterate_records
from equipoise.runtime.errors import InvalidInput, RunError
from equipoise.runtime.files import read_json
from equipoise.runtime.trust import names_function, trusting

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "extend.md"
BLOCKS = re.findall(r"^```(python|bash)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
PACKAGE = BLOCKS[0][1]
FEW = ("--images", "12", "--no-self-checks", "--steps", "1")


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch, few_digits, no_self_checks):
    """The page's package in the current folder, recipes of a few steps, and no module imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_package.py").write_text(PACKAGE)
    for name in ("pgd_at_digits", "trades_digits"):
        short = tiny.recipe(name)
        monkeypatch.setitem(RECIPES, name, lambda recipe=short: recipe)
    _made.cache_clear()
    yield tmp_path / "my_package.py"
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]
    _made.cache_clear()


@pytest.fixture
def trained():
    """A run of the page's recipe."""
    run("train", "my_package:recipe")
    forget()
    return "runs/pairing"


def forget():
    """Forget the package, as a new process does."""
    sys.modules.pop("my_package", None)
    _made.cache_clear()


def evaluate(*arguments):
    """Run ``evaluate``; a network trained this briefly may be refused as collapsed."""
    try:
        run("evaluate", *arguments)
    except SystemExit as ended:
        if ended.code != 1:
            raise


def test_the_package_of_the_page_is_short():
    assert len([line for line in PACKAGE.splitlines() if line.strip()]) <= 43


@pytest.mark.slow
def test_every_command_and_the_python_of_the_page_run(capsys):
    for language, block in BLOCKS[1:]:
        if language == "python":
            exec(compile(block, PAGE.name, "exec"), {"__name__": "__main__"})
            continue
        for line in block.splitlines():
            forget()
            _, command, *arguments = line.split()
            if command == "evaluate":
                evaluate(*arguments)
            else:
                run(command, *arguments)
    printed = output(capsys)
    assert printed.count(" 0 failed") == 5
    assert "my_package:suite" in printed.split("report")[-1]
    assert (Path("images") / "metadata.json").is_file()
    assert read_json(Path("runs/trades_digits/recipe.json"))["dataset"]["function"] == (
        "my_package:reader"
    )


@pytest.mark.slow
def test_records_tables_and_cards_name_imported_code(trained, capsys):
    evaluate(trained, "--trust", "my_package", *FEW)
    (path,) = Path(trained, "records").glob("*.json")
    record = read_json(path)
    assert record["data"] == "few_digits"
    assert [suite["name"] for suite in record["suites"]] == ["quick", "my_package:suite"]
    attacks = record["suites"][1]["attacks"]
    assert [attack["name"] for attack in attacks] == ["corners", "apgd-20"]
    assert {attack["imported"] for attack in attacks} == {"my_package:suite"}
    assert all(re.fullmatch("[0-9a-f]{64}", attack["source_sha256"]) for attack in attacks)
    assert attacks[0]["tries"] == 10
    assert not any("imported" in attack for attack in record["suites"][0]["attacks"])
    card = read_json(Path(trained, "model", "config.json"))["card"]
    assert card["dataset"]["kind"] == "ImportedData"
    assert card["dataset"]["function"] == "my_package:reader"
    assert card["evaluation"]["suites"] == ["quick", "my_package:suite"]
    assert card["training"]["method"]["objective"]["function"] == "my_package:LogitPairing"
    output(capsys)
    run("report", trained, "--suite", "my_package:suite")
    printed = output(capsys)
    assert "my_package:suite" in printed
    assert "corners" in printed


@pytest.mark.slow
def test_nothing_that_a_file_names_is_imported_without_trust(trained, package, capsys):
    package.write_text(f"{PACKAGE}\nopen('imported', 'w').close()\n")
    for arguments in (
        ("evaluate", trained),
        ("evaluate", trained, "--dataset", "digits"),
        ("attack", trained, "--out", "images"),
        ("train", trained, "--out", "runs/again"),
    ):
        message = refused(capsys, *arguments)
        assert re.search("my_package, which is not trusted, .* --trust my_package", message)
    assert not Path("imported").exists()
    assert not Path("images").exists()
    evaluate(trained, "--trust", "my_package", *FEW)
    assert Path("imported").exists()


@pytest.mark.slow
def test_what_the_caller_names_is_trusted_for_the_call(trained):
    where = ("--data", "my_package:reader", "--epsilons", "0.1")
    evaluate(trained, "--suite", "my_package:corners", "--workers", "2", *where, *FEW)
    forget()
    with pytest.raises(RunError, match="my_package:suite is code in the module my_package, which"):
        equipoise.evaluate(trained, Digits().load())
    recipe = find_recipe("my_package:recipe")
    assert recipe.evaluation.suites == ("quick", "my_package:suite")
    assert from_json(json.loads(json.dumps(to_json(recipe)))) == recipe


@pytest.mark.slow
def test_cached_results_belong_to_the_code_of_the_attack(trained, package):
    where = (trained, "--suite", "my_package:corners", "--dataset", "digits", *FEW)

    def units() -> set[Path]:
        forget()
        evaluate(*where)
        return {path.parent for path in Path(trained, "evaluations").rglob("corners_*/*")}

    first = units()
    assert first
    assert units() == first
    package.write_text(PACKAGE.replace("clean + step", "clean - step"))
    changed = units()
    assert changed > first
    assert len(changed) == 2 * len(first)
    records = [r for _, r in iterate_records(Path(trained)) if r["suites"][0]["name"] != "quick"]
    assert records[0]["suites"][0]["attacks"][0]["imported"] == "my_package:corners"


def test_a_suite_gets_the_model_and_the_number_of_classes(package):
    package.write_text(
        f"{PACKAGE}\ndef adaptive(model, classes):\n"
        "    return replace(corners(), name=f'{type(model).__name__}-{classes}')\n"
    )
    with trusting("my_package"):
        (suite,) = suites_for(tiny.linear(), ["my_package:adaptive"], classes=7)
    assert [attack.name for attack in suite.attacks] == ["Sequential-7"]


def test_a_model_without_gradients_keeps_the_attacks_of_an_imported_suite():
    model = tiny.linear()
    model.gives_gradients = False
    with trusting("my_package"):
        theirs, ours = suites_for(model, ["my_package:corners", "quick"], classes=10)
    assert [attack.name for attack in theirs.attacks] == ["corners"]
    assert [attack.name for attack in ours.attacks] == ["noise-100", "square-1000"]


def test_a_suite_keeps_whether_its_attacks_are_independent(package):
    package.write_text(
        f"{PACKAGE}\nfrom equipoise.evaluation import Suite\n"
        "def apart():\n    return Suite(name='x', attacks=tuple(suite()), independent=True)\n"
    )
    with trusting("my_package"):
        made = imported_suite("my_package:apart", {})
    assert (made.name, made.independent, len(made.attacks)) == ("my_package:apart", True, 2)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 3", "must return an attack, a list of attacks or a Suite, got int"),
        ("return []", "a list of attacks or a Suite, got none"),
        ("return [corners(), corners()]", r"its own name, got \['corners', 'corners'\]"),
        ("return Corners(3)", "got Corners. SearchAttack.* makes an attack of a search"),
    ],
)
def test_what_returns_no_attacks_is_refused(body, message, package):
    package.write_text(f"{PACKAGE}\ndef wrong():\n    {body}\n")
    with trusting("my_package"), pytest.raises(InvalidInput, match=message):
        suites_for(tiny.linear(), ["my_package:wrong"], classes=10)


def test_a_reader_gets_the_folder_and_its_arguments(package, tmp_path):
    package.write_text(
        f"{PACKAGE}\ndef named(folder=None, suffix=''):\n"
        "    return replace(reader(), name=f'{folder.name}{suffix}')\n"
    )
    source = ImportedData(
        function="my_package:named", folder=tmp_path / "mine", arguments={"suffix": "!"}
    )
    with trusting("my_package"):
        assert source.load().name == "mine!"
    assert from_json(json.loads(json.dumps(to_json(source))), DataSource) == source


def test_what_returns_no_data_set_or_recipe_is_refused(package):
    package.write_text("def three():\n    return 3\n")
    with (
        trusting("my_package"),
        pytest.raises(DataError, match="must return an equipoise"),
    ):
        ImportedData(function="my_package:three").load()
    with pytest.raises(InvalidInput, match="my_package:three must return a Recipe, got int"):
        find_recipe("my_package:three")
    with trusting("my_package"), pytest.raises(InvalidInput, match=r"called with .* 'limit'"):
        ImportedData(function="my_package:three", arguments={"limit": 3}).load()
    with pytest.raises(DataError, match="written module:function"):
        ImportedData(function="three")


def test_a_name_is_told_from_a_path(tmp_path):
    assert recognise(Path("my_package:reader")) == ImportedData(function="my_package:reader")
    assert names_function("a.b:c")
    wrong = ("a:", ":a", "a/b:c", "hf://a/b", "1a:b", "a:b.c", "C:\\data", None, (1, 2))
    assert not any(map(names_function, wrong))
    shutil.copytree(tmp_path, tmp_path / "my_package:reader", ignore=lambda *_: ["my_package.py"])
    with pytest.raises(DataError, match="must be data in a known format"):
        recognise(Path("my_package:reader"))


def test_trusted_code_is_what_the_caller_names():
    choices = {"trust": ("a",), "suites": ("quick", "b:c")}
    assert trusted_code(choices, Path("d:e")) == ("a", "b:c", "d:e")
    assert trusted_code({}, DataSet) == ()
