"""Records written by earlier versions keep their file names."""

from dataclasses import replace
from pathlib import Path

import pytest

from equipoise.api.evaluate import evaluate
from equipoise.api.evaluation_settings import EvaluationSettings
from equipoise.recipes import RECIPES, from_json, to_json
from equipoise.recipes.recipe import Evaluation
from equipoise.runtime.errors import InvalidInput
from equipoise.runtime.files import read_json

RESULTS = Path(__file__).resolve().parents[2] / "results"
DIGITS = RECIPES["standard_digits"]().evaluation


@pytest.mark.parametrize(
    ("changes", "suffix"),
    [
        ({}, ""),
        ({"seed": 1}, "__e4f516"),
        ({"batch_size": 128}, "__98dadb"),
        ({"search_precision": "bf16-mixed"}, "__5fe44a"),
        ({"logits": "logits"}, "__dc506f"),
        ({"surrogates": (Path("runs/a"), "runs/b")}, "__dff873"),
        ({"evaluation": replace(DIGITS, images=8)}, "__5b7904"),
        ({"order": "descending"}, "__9e2281"),
        ({"other_data": ("others", "abc")}, "__854659"),
        ({"order": "descending", "other_data": ("others", "abc")}, "__aef015"),
    ],
)
def test_file_names_of_records_are_those_of_earlier_versions(changes, suffix):
    settings = EvaluationSettings(**({"evaluation": DIGITS} | changes))
    name = settings.record_name("standard_digits", 0, usual=to_json(DIGITS))
    assert name == f"standard_digits__seed0{suffix}.json"


def test_without_an_evaluation_in_the_card_no_evaluation_is_the_usual_one():
    name = EvaluationSettings(evaluation=DIGITS).record_name("net", None, usual=None)
    assert name == "net__seed0__4da7ad.json"


def settings_of(record: dict) -> EvaluationSettings:
    """The settings of a record that was evaluated in the default order without surrogates."""
    evaluation, seed, batch_size, precision, logits, *others = record["settings"]
    (other,) = others or [None]
    return EvaluationSettings(
        evaluation=from_json(evaluation, Evaluation),
        seed=seed,
        batch_size=batch_size,
        search_precision=precision,
        logits=logits,
        other_data=(other["data"], other["digest"]) if other else None,
    )


def test_committed_digits_records_have_the_names_that_their_settings_give():
    wrong, checked = [], 0
    for path in sorted((RESULTS / "digits" / "records").glob("*.json")):
        record = read_json(path)
        settings = settings_of(record)
        if settings.to_json() != record["settings"]:
            wrong.append(f"{path.name}: other settings")
        seed = record["training_seed"]
        usual = record["settings"][0]
        names = {settings.record_name(record["model"], seed, usual=u) for u in (usual, None)}
        if path.name not in names:
            wrong.append(f"{path.name}: {names}")
        checked += 1
    assert wrong == []
    assert checked > 0


def test_an_unknown_argument_of_evaluate_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(InvalidInput, match="no argument epsilon; did you mean epsilons"):
        evaluate(tmp_path, epsilon=0.1)
