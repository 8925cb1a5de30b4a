import pytest
from rich.console import Console

from equipoise.report import checks_line, markdown_checks, rich_checks
from equipoise.report.self_checks import open_checks


def check(name: str, verdict: str = "pass") -> dict:
    return {
        "name": name,
        "verdict": verdict,
        "found": f"Found by {name}.",
        "meaning": f"Meaning of {name}.",
        "numbers": {},
    }


def record(*checks: dict, **changes) -> dict:
    return {"model": "one", "training_seed": 0, "self_checks": list(checks)} | changes


MIXED = record(*(check(f"c{i}") for i in range(9)), check("w", "warn"), check("f", "fail"))


def printed(records: list[dict]) -> str:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(rich_checks(*records))
    return captured.get()


def test_the_line_counts_each_verdict():
    assert checks_line(MIXED) == "checks: 9 pass, 1 warn, 1 fail"
    assert checks_line(MIXED, record(check("a"))) == "checks: 10 pass, 1 warn, 1 fail"


def test_records_without_checks_are_mentioned():
    old = record()
    del old["self_checks"]
    assert checks_line(old) == "checks: none recorded"
    assert checks_line() == "checks: none recorded"
    assert checks_line(MIXED, old).endswith("1 fail; 1 of 2 records have none")
    assert open_checks(old) == []


def test_failures_come_first_and_passes_are_not_listed():
    checks = open_checks(MIXED, record(check("g", "fail"), model="two", training_seed=None))
    assert [(check.verdict, check.model, check.name) for check in checks] == [
        ("fail", "one seed 0", "f"),
        ("fail", "two", "g"),
        ("warn", "one seed 0", "w"),
    ]


def test_markdown_lists_findings_and_their_meaning():
    assert markdown_checks(MIXED).splitlines() == [
        "checks: 9 pass, 1 warn, 1 fail",
        "",
        "- **fail** one seed 0: f. Found by f. Meaning of f.",
        "- **warn** one seed 0: w. Found by w. Meaning of w.",
    ]
    assert markdown_checks(record(check("a"))) == "checks: 1 pass, 0 warn, 0 fail\n"


def test_the_terminal_prints_findings_and_meaning_within_80_columns():
    long = check("gradients", "warn") | {"meaning": "word " * 60 + "[not markup]"}
    text = printed([record(long)])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].rstrip() == "checks: 0 pass, 1 warn, 0 fail"
    assert lines[1].rstrip() == "warn one seed 0: gradients"
    assert lines[2].rstrip() == "     Found by gradients."
    assert all(line.startswith("     ") for line in lines[2:])
    assert "[not markup]" in text


def test_an_unknown_verdict_is_refused():
    with pytest.raises(ValueError, match="one of pass, warn, fail, got 'passed' for a of one;"):
        checks_line(record(check("a", "passed")))


def test_points_by_which_a_check_could_flatter_are_printed():
    flattering = check("gradients", "fail") | {"numbers": {"could_flatter": 0.12}}
    harmless = check("logit scale", "warn") | {"numbers": {"could_flatter": 0.0}}
    text = markdown_checks(record(flattering, harmless))
    assert "Meaning of gradients. Could flatter the score by up to 12.0 points." in text
    assert "Meaning of logit scale. Could not flatter the score." in text
    assert "     Could flatter the score by up to 12.0 points." in printed([record(flattering)])
    assert "latter" not in markdown_checks(MIXED)
