"""``equipoise check-extension`` on right and wrong extensions of a user's package."""

import re
import sys
from pathlib import Path

import pytest
import tiny
from commands import output, refused, run, shown_help

from equipoise.api.check_extension import check_extension
from equipoise.recipes import RECIPES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "extend.md"
PACKAGE = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)[0]
WRONG = """
import torch
from torch import nn


def far(goal, clean, threat, generator):
    return (clean + 2 * threat.epsilon).clamp(0, 1) if threat.epsilon == 0.1 else clean.clone()


def far_attack():
    return SearchAttack(name="far", search=far, loss="margin")


class Nan(LogitPairing):
    def losses(self, batch):
        return {"loss": super().losses(batch)["loss"] * float("nan")}


class Detached(LogitPairing):
    def losses(self, batch):
        return {"loss": super().losses(batch)["loss"].detach()}


class Half:
    def losses(self, batch):
        return {}


class Unnamed:
    def run(self):
        return None


def three():
    return 3


def broken():
    return 1 / 0


def two():
    return [replace(corners(), name=name, search=Corners(1)) for name in ("one", "other")]


def network(classes, width=4):
    features = nn.Sequential(nn.Conv2d(1, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU())
    return nn.Sequential(features, nn.Flatten(), nn.Linear(9 * width, classes))


def no_network():
    return nn.Linear(5, 2)
"""


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch, few_digits):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checked_package.py").write_text(
        PACKAGE.replace("my_package:", "checked_package:").replace("Corners(10)", "Corners(2)")
        + WRONG
    )
    short = tiny.recipe("pgd_at_digits")
    monkeypatch.setitem(RECIPES, "pgd_at_digits", lambda: short)
    yield
    sys.modules.pop("checked_package", None)


@pytest.mark.parametrize(
    ("function", "kind", "checks"),
    [
        ("LogitPairing", "objective", 15),
        ("corners", "attack", 18),
        ("reader", "reader", 6),
        ("recipe", "recipe", 5),
        ("network", "model", 8),
    ],
)
def test_a_right_extension_passes_every_check(function, kind, checks, capsys):
    run("check-extension", f"checked_package:{function}")
    printed = output(capsys)
    assert f"checked_package:{function}, {kind}: {checks} passed, 0 failed" in printed
    assert printed.count("pass ") == checks
    assert "FAIL" not in printed


def test_every_attack_of_a_suite_is_checked():
    kind, outcomes = check_extension("checked_package:two")
    assert kind == "suite"
    names = {outcome.check.split(":")[0] for outcome in outcomes}
    assert names == {"one", "search of one", "other", "search of other"}
    assert [outcome for outcome in outcomes if outcome.reason] == []


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
    ("function", "line"),
    [
        (
            "far_attack",
            "FAIL far: stays in the ball and in 0 to 1: under Linf an image moved by 0.2; epsilon "
            "is 0.1",
        ),
        (
            "Nan",
            "FAIL losses are one finite number for each image: loss of 4 images and 10 classes is "
            "[nan, nan, nan, nan]",
        ),
        (
            "Detached",
            "FAIL the gradient reaches every parameter: the loss has no gradient: it is detached "
            "from the network",
        ),
        ("broken", "FAIL it can be called: ZeroDivisionError: division by zero"),
    ],
)
def test_a_wrong_extension_fails_with_a_readable_line_and_status_1(function, line, capsys):
    with pytest.raises(SystemExit) as ended:
        run("check-extension", f"checked_package:{function}")
    assert ended.value.code == 1
    assert line in output(capsys)


def test_arguments_reach_the_function(capsys):
    run("check-extension", "checked_package:LogitPairing", "--arguments", '{"weight": 2}')
    assert "0 failed" in output(capsys)
    message = refused(
        capsys, "check-extension", "checked_package:LogitPairing", "--arguments", '{"wait": 2}'
    )
    assert re.search("cannot be called with the arguments .*'wait'", message)


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("checked_package:three", "must return an objective, an attack, .* got int"),
        ("checked_package:Half", "which has losses as an objective has, but lacks attacks, start_"),
        ("checked_package:Unnamed", "which has run as an attack has, but lacks name, kind, desc"),
        ("checked_package:no_network", "of none of the shapes that were tried: 3x32x32: .*; 1x28"),
        ("checked_package:nothing", "cannot be imported"),
        ("nowhere_at_all:nothing", "cannot be imported"),
        ("digits", "written module:function"),
    ],
)
def test_what_is_no_extension_is_refused(function, message, capsys):
    assert re.search(message, refused(capsys, "check-extension", function))


def test_code_of_another_module_needs_trust(tmp_path, capsys):
    (tmp_path / "checked_package_2.py").write_text(
        "from equipoise.data import ImportedData\nfrom checked_package import recipe as theirs\n"
        "from dataclasses import replace\ndef recipe():\n    return theirs()\n"
    )
    message = refused(capsys, "check-extension", "checked_package_2:recipe")
    assert "checked_package, which is not trusted" in message
    run("check-extension", "checked_package_2:recipe", "--trust", "checked_package")
    assert "0 failed" in output(capsys)


def test_the_help_lists_the_command(capsys):
    assert "check-extension" in shown_help(capsys, "--help")
