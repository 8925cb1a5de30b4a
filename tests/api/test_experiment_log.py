"""Metrics of epochs in files and, through modules that stand in for them, on servers."""

import csv
import importlib.machinery
import sys
from types import ModuleType

import pytest
import tiny

from equipoise.api.experiment_log import experiment_log
from equipoise.api.train import train
from equipoise.runtime.errors import RunError
from equipoise.runtime.reporter import NullReporter


def two_stages(reporter):
    reporter.begin("branches", 10, 0)
    reporter.epoch("", entry={"epoch": 0, "train": {"loss": 2.0}, "learning_rate": 0.1})
    validation = {"validation": {"0.2": 0.5}, "clean": 0.75}
    reporter.epoch("", entry={"epoch": 1, "train": {"loss": 1.0}, **validation})
    reporter.epoch("kept epoch 2", last=True)
    reporter.begin("gate", 5, 0)
    reporter.epoch("", entry={"epoch": 0, "train": {"loss": 0.5}, "learning_rate": 0.01})


def test_a_run_is_logged_to_csv_and_a_resumed_one_to_a_new_version(tmp_path):
    recipe = tiny.recipe("standard_digits")
    for resume in (False, True):
        with experiment_log("csv", tmp_path, "mine") as logged:
            train(
                recipe,
                tmp_path,
                dataset=tiny.digits(),
                reporter=logged(NullReporter()),
                resume=resume,
            )
    (file,) = (tmp_path / "logs").rglob("metrics.csv")  # the finished run trained no epoch again
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert set(rows[0]) == {
        "step",
        *(f"network/{name}" for name in ("loss", "learning_rate", "accuracy_0")),
    }


def test_a_log_that_cannot_be_written_ends_in_one_clear_error(tmp_path):
    (tmp_path / "logs").write_text("in the way")
    message = r"cannot write the log in .*logs.*--resume"
    with pytest.raises(RunError, match=message), experiment_log("csv", tmp_path, "a") as logged:
        two_stages(logged(NullReporter()))


def test_tensorboard_reads_what_was_logged(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with experiment_log("tensorboard", tmp_path, "mine") as logged:
        two_stages(logged(NullReporter()))
    events = EventAccumulator(str(tmp_path / "logs" / "tensorboard" / "version_0"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("branches/loss")]
    assert losses == [(1, 2.0), (2, 1.0)]
    assert [event.value for event in events.Scalars("branches/accuracy_0.2")] == [0.5]
    assert [event.value for event in events.Scalars("branches/accuracy_0")] == [0.75]
    assert [event.value for event in events.Scalars("gate/loss")] == [0.5]


def stand_in(monkeypatch, name, **functions):
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__dict__.update(functions)
    monkeypatch.setitem(sys.modules, name, module)


def test_weights_and_biases_gets_the_epoch_as_a_metric(monkeypatch, tmp_path):
    calls = []

    class Run:
        def log(self, metrics):
            calls.append(metrics)

        def finish(self):
            calls.append("finish")

    def init(**settings):
        calls.append(settings)
        return Run()

    stand_in(monkeypatch, "wandb", init=init)
    with experiment_log("wandb", tmp_path, "mine") as logged:
        assert calls == []  # before the first epoch
        two_stages(logged(NullReporter()))
    assert calls[0] == {"project": "equipoise", "name": "mine", "dir": str(tmp_path)}
    assert calls[1] == {"branches/loss": 2.0, "branches/learning_rate": 0.1, "epoch": 1}
    assert [call["epoch"] for call in calls[1:4]] == [1, 2, 1]
    assert calls[4:] == ["finish"]


def test_mlflow_gets_the_epoch_as_step(monkeypatch, tmp_path):
    calls = []
    stand_in(
        monkeypatch,
        "mlflow",
        start_run=lambda run_name: calls.append(run_name),
        log_metrics=lambda metrics, step: calls.append((step, metrics)),
        end_run=lambda: calls.append("end"),
    )
    with experiment_log("mlflow", tmp_path, "mine") as logged:
        two_stages(logged(NullReporter()))
    assert calls[0] == "mine"
    assert calls[1] == (1, {"branches/loss": 2.0, "branches/learning_rate": 0.1})
    assert [step for step, _ in calls[1:4]] == [1, 2, 1]
    assert calls[4:] == ["end"]


def test_a_library_that_is_not_installed_is_refused_before_anything_runs(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = r"--log-to wandb needs the package wandb: run pip install 'equipoise\[wandb\]'\."
    with (
        pytest.raises(RunError, match=message),
        experiment_log("wandb", tmp_path, "mine"),
    ):
        raise AssertionError("not reached")


def test_everything_is_passed_on(tmp_path):
    heard = tiny.AfterSteps(0, None)
    with experiment_log("csv", tmp_path, "mine") as logged:
        reporter = logged(heard)
        reporter.begin("network", 1, 0)
        reporter.step(1, "")
        reporter.log("a line")
    assert (heard.stages, heard.lines) == (["network"], ["a line"])
    assert not (tmp_path / "logs").exists()  # no epoch, no log
