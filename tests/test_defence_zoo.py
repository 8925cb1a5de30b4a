"""The zoo that measures the evaluation; ``benchmarks/defence_zoo.py`` runs all of it."""

import importlib
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def zoo(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("DEFENCE_ZOO_WORK", str(tmp_path / "work"))
    monkeypatch.delenv("DEFENCE_ZOO_CIFAR10", raising=False)
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("defence_zoo")


def entry_of(zoo, name):
    return next(entry for entry in zoo.catalogue.entries() if entry.name.endswith(f":{name}"))


def outcome(**facts):
    return {"score": 0.5, "flags": [], **facts}


def test_the_zoo_has_thirty_broken_and_twenty_sound_models_of_eight_kinds(zoo):
    entries = zoo.catalogue.entries()
    sound = [entry for entry in entries if entry.sound]
    assert len(entries) - len(sound) >= 30
    assert len(sound) >= 20
    assert len({entry.kind for entry in sound}) >= 8
    assert len({entry.name for entry in entries}) == len(entries)
    assert all(entry.paper for entry in entries)


def test_every_function_of_the_catalogue_exists(zoo):
    for entry in zoo.catalogue.entries():
        if not entry.is_recipe:
            module, _, function = entry.name.partition(":")
            assert callable(getattr(importlib.import_module(module), function)), entry.name


def test_every_defence_of_a_module_is_in_the_catalogue(zoo):
    names = {entry.name for entry in zoo.catalogue.entries()}
    for path in (FOLDER / "defences").glob("*.py"):
        if path.stem in ("__init__", "base", "catalogue", "truth"):
            continue
        module = importlib.import_module(f"defences.{path.stem}")
        for name, value in vars(module).items():
            public = getattr(value, "__module__", "") == module.__name__ and name[0].islower()
            assert not public or f"defences.{path.stem}:{name}" in names, name


def test_flags_are_checks_that_do_not_pass_and_marks_of_another_kind_of_score(zoo):
    checks = [{"name": "range", "verdict": "pass"}, {"name": "black box", "verdict": "warn"}]
    marks = [{"name": "black box only"}, {"name": "lower precision"}]
    record = {"self_checks": checks, "marks": marks}
    assert zoo.flags_of(record) == ["warn: black box", "mark: black box only"]


def test_a_score_three_points_too_high_without_a_flag_is_a_false_score(zoo):
    broken = entry_of(zoo, "decoy")
    assert zoo.verdict(broken, 0.40, outcome()) == "false score"
    assert zoo.verdict(broken, 0.48, outcome()) == ""
    assert zoo.verdict(broken, 0.40, outcome(flags=["warn: black box"])) == ""
    assert zoo.verdict(broken, 0.40, {"refused": "no", "flags": ["refused"]}) == ""


def test_a_flag_on_a_sound_model_is_a_false_alarm_unless_its_score_is_too_high(zoo):
    sound = entry_of(zoo, "standard_training")
    assert zoo.verdict(sound, 0.48, outcome(flags=["fail: gradients"])) == "false alarm"
    assert zoo.verdict(sound, 0.40, outcome(flags=["fail: gradients"])) == ""
    assert zoo.verdict(sound, 0.40, outcome()) == "false score"
    assert zoo.verdict(sound, 0.50, outcome()) == ""


def test_a_collapsed_model_must_be_flagged_whatever_its_score(zoo):
    assert zoo.verdict(entry_of(zoo, "collapsed"), 0.5, outcome()) == "unflagged"


def test_a_crash_is_named_as_one(zoo):
    crashed = {"crashed": "TypeError", "flags": []}
    assert zoo.verdict(entry_of(zoo, "decoy"), 0.5, crashed) == "crash"


def test_a_process_apart_starts_in_an_empty_folder_and_cannot_change_this_one(zoo, tmp_path):
    seen = zoo.apart(lambda: {"files": len(list(Path.cwd().iterdir()))})
    assert seen == {"files": 0}
    assert Path.cwd() == tmp_path


def test_a_process_that_dies_is_a_crash(zoo):
    def die():
        raise SystemExit(3)

    assert zoo.apart(die) == {"crashed": "the process died", "flags": []}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["decoy", "repeats", "off_grid_gate", "counter", "detached"])
def test_the_truth_of_a_wrapper_that_keeps_its_predictions_is_that_of_its_network(zoo, name):
    broken, bare = (
        zoo.truth(entry_of(zoo, which), images=50) for which in (name, "standard_training")
    )
    assert broken["clean"] == bare["clean"] > 0.9
    assert broken["accuracy"] == pytest.approx(bare["accuracy"], abs=0.03)
    assert broken["accuracy"] < 0.2


@pytest.mark.slow
def test_a_sound_model_is_scored_at_its_truth_without_a_flag(zoo):
    entry = entry_of(zoo, "standard_training")
    found = zoo.score(entry, zoo.PROTOCOLS["quick"], seed=0, images=50)
    assert found["flags"] == []
    true = zoo.truth(entry, images=50)["accuracy"]
    assert abs(found["score"] - true) <= zoo.TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "images"),
    [("nan_gradient", 50), ("jpeg", 50), ("gaussian_noise", 5), ("without_graph", 50)],
)
def test_the_evaluation_flags_what_it_is_known_to_see_through(zoo, name, images):
    protocol = zoo.PROTOCOLS["quick"]  # a randomised model is asked ten times at each point
    assert zoo.score(entry_of(zoo, name), protocol, seed=0, images=images)["flags"]


@pytest.mark.slow
def test_the_search_of_the_truth_stays_within_epsilon(zoo):
    from defences.truth import ascend, margin

    images, labels = zoo.base.data().test.batch(slice(0, 20))
    points = ascend(zoo.base.standard(), margin, images, labels, 0.15)
    assert float((points - images).abs().max()) <= 0.15 + 1e-6
    assert float(points.min()) >= 0
    assert float(points.max()) <= 1
    with torch.no_grad():
        assert (zoo.base.standard()(points).argmax(dim=1) != labels).float().mean() > 0.7
