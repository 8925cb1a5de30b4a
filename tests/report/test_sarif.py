import json
from pathlib import Path

import pytest
from headline_records import record

from equipoise.report.gates import failures_of, parse_requirement
from equipoise.report.sarif import sarif_log

LEVELS = {"none", "note", "warning", "error"}


def check(name: str, verdict: str, **numbers: float) -> dict:
    found = {"name": name, "verdict": verdict, "found": f"Found {name}.", "meaning": "M."}
    return found | {"numbers": numbers}


@pytest.fixture
def log(tmp_path, monkeypatch) -> dict:
    monkeypatch.chdir(tmp_path)
    first = record(
        "net",
        self_checks=[
            check("mode", "pass"),
            check("black box", "warn"),
            check("one step", "fail", could_flatter=0.12),
        ],
        marks=[{"name": "lower precision", "meaning": "In half precision."}],
    )
    second = record("other", self_checks=[check("mode", "pass")])
    paths = [tmp_path / "runs" / "my net.json", Path("/elsewhere/other.json")]
    failures = failures_of([first, second], [parse_requirement("0.6@8/255")])
    return json.loads(json.dumps(sarif_log([first, second], paths, failures)))


def test_the_log_has_the_structure_that_sarif_2_1_0_requires(log):
    """Required properties and types, by sections 3.13 to 3.58 of the specification."""
    assert (log["version"], len(log["runs"])) == ("2.1.0", 1)
    assert log["$schema"].endswith("sarif-schema-2.1.0.json")
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "Equipoise"
    assert isinstance(driver["version"], str)
    assert run["columnKind"] in ("utf16CodeUnits", "unicodeCodePoints")
    identities = [rule["id"] for rule in driver["rules"]]
    assert len(set(identities)) == len(identities)
    assert all(rule["shortDescription"]["text"] for rule in driver["rules"])
    for result in run["results"]:
        assert set(result) == {"ruleId", "ruleIndex", "level", "message", "locations"}
        assert identities[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in LEVELS
        assert result["message"]["text"]
        (location,) = result["locations"]
        physical = location["physicalLocation"]
        assert " " not in physical["artifactLocation"]["uri"]
        assert physical["region"]["startLine"] == 1


def test_each_check_is_a_rule_and_the_level_follows_the_verdict(log):
    (run,) = log["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == [
        *("fail-under", "check/mode", "check/black-box", "check/one-step"),
        "mark/lower-precision",
    ]
    levels = [(result["ruleId"], result["level"]) for result in run["results"]]
    assert levels == [
        *[("fail-under", "error")] * 2,
        ("check/one-step", "error"),
        ("check/black-box", "warning"),
        ("mark/lower-precision", "note"),
    ]


def test_messages_say_what_was_found_and_by_how_much_it_flatters(log):
    texts = [result["message"]["text"] for result in log["runs"][0]["results"]]
    assert texts[0] == "net: accuracy 0.5 at 8/255 is under 0.6"
    assert "Found one step. M. Could flatter the score by up to 12.0 points." in texts[2]


def test_results_point_at_the_record_relative_to_the_working_folder(log):
    uris = [
        result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        for result in log["runs"][0]["results"]
    ]
    assert uris[0] == "runs/my%20net.json"
    assert uris[1] == "file:///elsewhere/other.json"
