import copy

import pytest
from tiny import record

from equipoise.records import schema


def without(path: str, value: object = None, *, delete: bool = True) -> dict:
    """A record with one field deleted, or set."""
    changed = copy.deepcopy(record())
    place, *names = changed, *path.split(".")
    for name in names[:-1]:
        place = place[int(name) if name.isdigit() else name]
    last = int(names[-1]) if names[-1].isdigit() else names[-1]
    if delete:
        del place[last]
    else:
        place[last] = value
    return changed


def test_record_may_have_extra_fields_and_lack_optional_ones():
    schema.check(record() | {"anything": [1, None]})
    schema.check(without("broken_at"))
    schema.check(record() | {"broken_by": ["quick/pgd", None]})
    schema.check(record() | {"training_seed": None, "self_checks": None})


@pytest.mark.parametrize(
    "path", ["model", "epsilons", "headline", "headline.average", "suites.0.attacks.0.name"]
)
def test_missing_field_is_named(path):
    with pytest.raises(ValueError, match=f"a field is missing.*{path.split('.')[-1]}"):
        schema.check(without(path))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model", 3, "must be of type str, got '3'"),
        ("images", True, "must be of type int, got 'True'"),
        ("images", 2.0, "must be of type int, got '2.0'"),
        ("seconds", float("nan"), "must be of type float, got 'nan'"),
        ("headline.average", float("nan"), r"must be in \[0, 1\], got nan"),
        ("headline.accuracy.1", "0.5", "must be of type float, got '0.5'"),
        ("epsilons", 0.1, "epsilons"),
        ("suites.0", [], "suites"),
        ("training_seed", "3", "must be of type int"),
        ("training_commit", 3, "must be of type str"),
        ("broken_by", ["quick/pgd", 0], "must be of type str, got '0'"),
        ("environment", {}, "field is missing.*environment"),
        ("fusing_weight", {"through_generator": [{"mean": 1}]}, "field is missing.*std"),
        ("rescored", {"images": "4"}, "must be of type int"),
        ("headline.accuracy.1", 1.5, r"must be in \[0, 1\], got 1.5 @ record.headline.accuracy"),
        ("headline.interval.1.0", -0.1, r"must be in \[0, 1\], got -0.1"),
        ("suites.0.accuracy.0", 1e308, r"must be in \[0, 1\], got 1e\+308"),
        ("seconds", 1e308, r"must be at most 1e\+30 in size, got 1e\+308"),
        ("parameters", 10**400, r"must be at most 1e\+30 in size, got 1000"),
    ],
)
def test_field_of_the_wrong_type_or_range_is_named(path, value, message):
    with pytest.raises(ValueError, match=rf"damaged record: .*{message}"):
        schema.check(without(path, value, delete=False))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("headline.accuracy", [1.0], "headline.accuracy has 1 entries, not 2"),
        ("headline.interval.0", [0.1], r"interval\[0\] has 1 entries, not 2"),
        ("epsilons_written", [], "epsilons_written has 0 entries, not 2"),
        ("suites.0.accuracy", [1.0], "accuracy of quick has 1 entries, not 2"),
        ("suites.0.broken_at", [1], "broken_at of quick has 1 entries, not 2"),
        ("broken_at", [1, 1, 1], "broken_at has 3 entries, not 2"),
        ("broken_by", [None], "broken_by has 1 entries, not 2"),
        ("suites", [], "suites has 0 entries, not 1"),
        ("images", 3, "has 2 entries, not 3"),
    ],
)
def test_field_of_the_wrong_length_is_named(path, value, message):
    with pytest.raises(ValueError, match=message):
        schema.check(without(path, value, delete=False))


@pytest.mark.parametrize("content", [None, [], "x", 1, {}, {"format": 2}, {"format": True}])
def test_other_json_is_refused(content):
    with pytest.raises(ValueError, match=r"not a record of format 1 \(got"):
        schema.check(content)


def test_huge_image_count_is_refused_without_allocating_memory():
    with pytest.raises(ValueError, match=r"broken_at has 2 entries, not 1000000"):
        schema.check(record() | {"images": 10**30})


def test_marks_classes_and_points_of_flattery_are_checked():
    row = {"class": 3, "images": 2, "accuracy": [1.0, 0.5]}
    check = {"name": "mode", "verdict": "fail", "found": "F.", "meaning": "M."}
    schema.check(
        record()
        | {"per_class": [row], "marks": [{"name": "randomised", "meaning": "M.", "draws": 20}]}
        | {"self_checks": [check | {"numbers": {"could_flatter": 0.1, "images": 3}}]}
    )
    for changes, message in (
        ({"per_class": [row | {"accuracy": [1.0]}]}, "per_class 3 has 1 entries, not 2"),
        ({"per_class": [row | {"images": "2"}]}, "must be of type int"),
        ({"marks": [{"name": "randomised"}]}, "a field is missing"),
        ({"self_checks": [check | {"numbers": {"could_flatter": "much"}}]}, "of type float"),
    ):
        with pytest.raises(ValueError, match=message):
            schema.check(record() | changes)
