import json

import pytest

from equipoise.report.score_card import fullest_by_threat, records_of_model, score_card
from records import RECORD, document, record

CARD = document()["card"]


def test_a_score_card_holds_the_records_numbers_and_survives_json():
    card = score_card(
        CARD,
        record(
            fusing_weight={"through_generator": [{"mean": 0.9, "std": 0.1, "per_image": [0.9]}]}
        ),
    )
    assert json.loads(json.dumps(card)) == card
    assert (card["name"], card["classes"]) == ("tiny", ["cat", "dog", "ship"])
    assert card["training"] == {"seed": 3, "commit": "beef" * 10}
    scores = card["scores"]
    assert scores["accuracy"] == RECORD["headline"]["accuracy"]
    assert scores["interval"] == RECORD["headline"]["interval"]
    assert (scores["images"], scores["norm"], scores["epsilons_written"][-1]) == (
        500,
        "Linf",
        "8/255",
    )
    assert scores["attacks"] == {
        "quick": ["pgd-margin", "apgd-dlr"],
        "adaptive": ["gate-to-clean-1"],
    }
    assert scores["self_checks"] == {"pass": 1, "warn": 1, "fail": 0, "open": ["warn: missed"]}
    assert scores["w1"] == [{"mean": 0.9, "std": 0.1}]
    assert scores["commit"] == "feed" * 10


def test_a_model_without_a_record_has_no_scores():
    assert score_card(CARD, None)["scores"] is None


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True),
        ({"weights_sha256": "1"}, True),
        ({"weights_sha256": "2"}, False),  # trained again since
        ({"training_seed": 4}, False),
        ({"part": "validation"}, False),
        ({"model": "tiny@0.2"}, True),  # OAT at a preference
        ({"model": "other"}, False),
    ],
)
def test_only_records_of_these_weights_on_test_images_are_selected(changes, fits):
    selected = records_of_model([record(**changes)], CARD, "1")
    assert len(selected) == fits


def suites(*counts):
    return [{"name": "s", "attacks": [{"name": str(i)} for i in range(n)]} for n in counts]


@pytest.mark.parametrize(
    ("one", "other", "chosen"),
    [
        ({"suites": suites(5)}, {"suites": suites(2)}, 0),
        ({"suites": suites(2)}, {"suites": suites(2, 1)}, 1),
        ({"images": 500, "suites": suites(1)}, {"images": 20, "suites": suites(9)}, 0),
        ({"seed": 0}, {"seed": 1}, 1),  # as full, and newer
    ],
)
def test_the_fullest_record_of_a_threat_is_chosen_and_the_newest_of_equals(one, other, chosen):
    pair = [record(**one), record(**other)]
    assert fullest_by_threat(pair) == [pair[chosen]]


def test_each_norm_and_each_preference_has_its_own_record():
    four = [record(), record(norm="L2"), record(model="tiny@0"), record(model="tiny@1")]
    assert fullest_by_threat(four) == four


def test_a_score_card_has_the_marks_and_the_warning_of_an_unreliable_model():
    marked = record(marks=[{"name": "randomised", "meaning": "M."}])
    scores = score_card(CARD, marked)["scores"]
    assert scores["marks"] == ["randomised"]
    assert scores["warning"] == "The scores are not reliable (check missed: warn)."
    sound = record(self_checks=record()["self_checks"][:1])
    assert score_card(CARD, sound)["scores"]["warning"] is None
    assert score_card(CARD, sound)["scores"]["marks"] == []
