import pytest
from headline_records import record

from equipoise.evaluation.collapse import above_chance, chance_level, collapse_of
from equipoise.report import checks_line, markdown_checks, rich_table
from equipoise.report.reliability import can_be_best, unreliable_reasons, warning_of
from equipoise.report.table import best_model, ranked

PASSED = {"name": "mode", "verdict": "pass", "found": "F.", "meaning": "M.", "numbers": {}}


def check(name: str, verdict: str, **numbers: float) -> dict:
    return PASSED | {"name": name, "verdict": verdict, "numbers": numbers}


def per_class(classes: int = 10, images: int = 450) -> list[dict]:
    count = images // classes
    return [{"class": c, "images": count, "accuracy": [0.5, 0.5]} for c in range(classes)]


def test_chance_is_the_share_of_the_largest_class():
    assert chance_level(record(per_class=per_class())) == 0.1
    assert chance_level(record()) == 0


def test_one_class_for_every_image_is_a_collapse_whatever_the_checks_say():
    collapsed = record("flat", 0.1, 0.1, per_class=per_class(), self_checks=[PASSED] * 13)
    assert "10.0 %; one class for every image would reach 10.0 %" in collapse_of(collapsed)
    assert checks_line(collapsed) == "checks: 13 pass, 0 warn, 1 fail"
    assert "**fail** flat: collapsed. Clean accuracy is 10.0 %" in markdown_checks(collapsed)
    assert not can_be_best([collapsed])


def test_a_flat_curve_is_a_collapse_in_a_record_without_classes():
    assert "10.0 % at every strength" in collapse_of(record("flat", 0.1, 0.1))
    assert collapse_of(record("robust", 0.9, 0.9)) is None
    assert collapse_of(record("weak", 0.1, 0.05)) is None


@pytest.mark.parametrize(("clean", "robust"), [(0.2, 0.1), (0.9, 0.0), (0.9, 0.9)])
def test_a_model_above_chance_has_not_collapsed(clean, robust):
    assert collapse_of(record("net", clean, robust, per_class=per_class())) is None


def test_four_images_show_no_collapse():
    few = record("net", 0.25, 0.25, images=4, per_class=per_class(2, 4))
    assert collapse_of(few) is None


def test_a_set_with_images_of_one_class_shows_no_collapse():
    assert collapse_of(record("net", 0.9, 0.9, per_class=per_class(1))) is None


def test_models_are_ranked_by_average_and_a_model_at_zero_is_never_the_best():
    standard, weak = record("standard", 0.98, 0.0), record("weak", 0.5, 0.3)
    assert [r["model"] for r in ranked([weak, standard])] == ["standard", "weak"]
    assert best_model([standard, weak]) == "weak"
    assert best_model([standard]) is None


def test_the_average_over_all_strengths_decides_and_not_the_mean_of_the_ends():
    ends, middle = record("ends"), record("middle")
    for found, average in ((ends, 0.4), (middle, 0.6)):
        found["headline"]["average"] = average
    ends["headline"]["clean_and_strongest"] = 0.9
    assert best_model([ends, middle]) == "middle"
    assert [r["model"] for r in ranked([ends, middle])] == ["middle", "ends"]


def test_a_model_at_chance_under_attack_is_never_the_best():
    guessing = record("net", 0.9, 0.1, per_class=per_class())
    assert not above_chance(guessing)
    assert best_model([guessing]) is None


def test_a_model_with_a_failed_check_is_ranked_below_the_others_and_never_the_best():
    failed = record("failed", 0.9, 0.8, self_checks=[check("gradients", "fail")])
    assert best_model([failed, record("weak", 0.5, 0.3)]) == "weak"
    assert [r["model"] for r in ranked([failed, record("weak", 0.5, 0.3)])] == ["weak", "failed"]


def test_one_bad_seed_is_enough_not_to_be_the_best():
    good = record("net", training_seed=0)
    failed = record("net", training_seed=1, self_checks=[check("mode", "fail")])
    assert best_model([good, failed]) is None


def test_no_row_of_the_terminal_table_is_bold_if_no_model_is_the_best():
    table, *_ = rich_table([record("a", 0.9, 0.0)], "Title").renderables
    assert [row.style for row in table.rows] == [None]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"self_checks": [check("mode", "fail")]}, "check mode: fail"),
        ({"self_checks": [check("black box", "warn")]}, "check black box: warn"),
        ({"self_checks": [check("missed", "warn")]}, "check missed: warn"),
        ({"self_checks": [check("other", "warn", could_flatter=0.1)]}, "check other: warn"),
        ({"self_checks": []}, "no self-check ran"),
        ({"self_checks": None}, "no self-check ran"),
        ({"suites": [{"name": "quick", "attacks": []}]}, "no attack ran"),
        (
            {"suites": [{"name": "s", "attacks": [{"name": "a", "kind": "black box"}]}]},
            "black box only: gradients were not used",
        ),
        (
            {"marks": [{"name": "randomised", "meaning": "M."}]},
            "randomised: RobustBench requires a deterministic model",
        ),
    ],
)
def test_each_reason_makes_a_score_unreliable(changes, reason):
    assert unreliable_reasons(record(**{"self_checks": [PASSED]} | changes)) == [reason]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"self_checks": [check("goals disagree", "warn")]},
        {"self_checks": [check("other", "warn", could_flatter=0.0)]},
        {"marks": [{"name": "lower precision", "meaning": "M."}]},
    ],
)
def test_a_sound_score_is_reliable(changes):
    found = record(**{"self_checks": [PASSED]} | changes)
    assert unreliable_reasons(found) == []
    assert warning_of(found) is None


def test_the_warning_names_collapse_first_and_otherwise_what_failed():
    collapsed = record("flat", 0.1, 0.1, self_checks=[check("mode", "fail")])
    assert warning_of(collapsed).startswith("This model has collapsed. Accuracy is 10.0 %")
    failed = record(self_checks=[check("mode", "fail")])
    assert warning_of(failed) == "The scores are not reliable (check mode: fail)."
    assert warning_of(record()) is None  # no check ran, which the card says elsewhere


@pytest.mark.parametrize("verdict", ["pass", "warn", "fail"])
def test_a_collapse_is_counted_once_if_a_check_of_the_record_is_about_it(verdict):
    collapsed = record("flat", 0.1, 0.1, self_checks=[check("collapsed", verdict)])
    assert checks_line(collapsed) == "checks: 0 pass, 0 warn, 1 fail"
