import pytest
from headline_records import record

from equipoise.report.gates import (
    Requirement,
    check_strengths,
    failures_of,
    parse_requirement,
)

FAILED = {"name": "gradients", "verdict": "fail", "found": "F.", "meaning": "M.", "numbers": {}}


def texts(*requirements: str, records: list[dict] | None = None) -> list[str]:
    records = [record("net", 0.9, 0.5)] if records is None else records
    return [f.text for f in failures_of(records, list(map(parse_requirement, requirements)))]


def test_a_requirement_is_an_accuracy_and_a_strength():
    assert parse_requirement("0.3@8/255") == Requirement(accuracy=0.3, epsilon=8 / 255)
    assert parse_requirement("1@0") == Requirement(accuracy=1.0, epsilon=0.0)


@pytest.mark.parametrize("text", ["30@8/255", "0.3", "@0.1", "-0.1@0", "nan@0", "a@0", ""])
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"--fail-under takes an accuracy in \[0, 1\] .*0.3@8/255"):
        parse_requirement(text)


def test_a_strength_that_is_not_one_is_refused():
    with pytest.raises(ValueError, match="epsilon must be a number or a fraction"):
        parse_requirement("0.3@strong")


def test_an_accuracy_fails_only_if_it_is_lower():
    assert texts("0.5@8/255", "0.9@0") == []
    assert texts("0.501@8/255", "0.95@0") == [
        "net: accuracy 0.5 at 8/255 is under 0.501",
        "net: accuracy 0.9 at 0 is under 0.95",
    ]


def test_a_strength_that_was_not_evaluated_fails():
    assert texts("0.1@4/255") == ["net: not evaluated at 4/255"]


def test_a_failed_check_fails_without_a_requirement_and_every_record_counts():
    failed = record("two", self_checks=[FAILED, FAILED | {"verdict": "warn", "name": "missed"}])
    assert texts(records=[record("one"), failed]) == ["two: check gradients"]


def test_a_collapsed_model_fails():
    assert texts(records=[record("flat", 0.1, 0.1)]) == ["flat: check collapsed"]


def test_a_requirement_at_a_strength_that_will_not_be_evaluated_is_refused_before_the_attacks():
    check_strengths([parse_requirement("0.8@0")], (0.1,))
    with pytest.raises(ValueError, match=r"asks for 8/255, which is not among .* 0.1; add it"):
        check_strengths([parse_requirement("0.3@8/255")], (0.1,))
