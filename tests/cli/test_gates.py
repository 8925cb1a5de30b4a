"""``equipoise evaluate`` as a gate in CI: exit status, SARIF, and accuracy per class."""

import json
import shutil
from dataclasses import replace

import pytest
import tiny
from commands import output, refused, run

from equipoise.api.train import train
from equipoise.evaluation.self_check_finding import Finding
from equipoise.recipes import Evaluation


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run whose recipe evaluates eight digits quickly."""
    folder = tmp_path_factory.mktemp("gates") / "run"
    quick = Evaluation(epsilons=(0.0, 0.1), suites=("quick",), steps=1, restarts=1, images=8)
    train(replace(tiny.recipe(), evaluation=quick), folder, dataset=tiny.digits())
    return folder


@pytest.fixture
def trained(finished, tmp_path, few_digits, no_self_checks):
    """That run without records."""
    return shutil.copytree(finished, tmp_path / "run")


def failed(capsys, *arguments) -> str:
    """Run a command that exits with status 1, and return its one line of failures."""
    with pytest.raises(SystemExit) as exit_info:
        run(*arguments)
    assert exit_info.value.code == 1
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text]
    return line


@pytest.mark.slow
def test_fail_under_exits_with_status_1_after_the_record_is_written(capsys, trained):
    needed = ("--fail-under", "0@0", "1@0.1", "--fail-under", "1@0")
    line = failed(
        capsys, "evaluate", trained, "--epsilons", "0", "0.1", *needed, "--no-self-checks"
    )
    assert line.startswith("failed: standard_digits: accuracy ")
    assert "at 0.1 is under 1; standard_digits: accuracy " in line
    assert line.endswith("at 0 is under 1")
    assert len(list((trained / "records").iterdir())) == 1


def test_fail_under_that_is_reached_exits_normally(trained):
    run("evaluate", trained, "--no-self-checks", "--fail-under", "0@0")


def test_a_strength_of_fail_under_that_is_not_evaluated_is_refused_at_once(capsys, trained):
    arguments = ("evaluate", trained, "--epsilons", "0.1", "--fail-under", "0.3@8/255")
    assert "asks for 8/255, which is not among the strengths 0.1" in refused(capsys, *arguments)
    assert not (trained / "records").exists()


@pytest.mark.slow
def test_a_failed_self_check_exits_with_status_1_and_is_in_the_sarif_file(
    capsys, trained, monkeypatch, tmp_path
):
    finding = Finding(
        name="gradients", verdict="fail", found="F.", meaning="M.", numbers={"could_flatter": 0.1}
    )
    monkeypatch.setattr("equipoise.api.evaluate.self_checks", lambda *a, **b: [finding])
    file = tmp_path / "checks.sarif"
    line = failed(capsys, "evaluate", trained, "--sarif", file)
    assert line == "failed: standard_digits: check gradients"
    (result,) = json.loads(file.read_text())["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("check/gradients", "error")


@pytest.mark.slow
def test_evaluate_and_report_print_the_accuracy_of_each_class(capsys, trained):
    run("evaluate", trained, "--no-self-checks", "--per-class")
    assert "Accuracy per class" in output(capsys)
    run("report", trained, "--per-class")
    assert "Accuracy per class" in output(capsys)
    run("report", trained)
    assert "Accuracy per class" not in output(capsys)
