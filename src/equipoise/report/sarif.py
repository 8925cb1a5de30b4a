"""Findings of evaluations as SARIF 2.1.0, which code hosts and editors show."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from equipoise.report.gates import Failure
from equipoise.report.marks import marks_of
from equipoise.report.record import Record
from equipoise.report.reliability import UNRELIABLE_MARKS
from equipoise.report.self_checks import checks_of, open_checks
from equipoise.runtime.environment import version

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
FAIL_UNDER = "fail-under"
_LEVELS = {"warn": "warning", "fail": "error"}


def sarif_log(
    records: Sequence[Record], paths: Sequence[Path], failures: Sequence[Failure] = ()
) -> dict[str, Any]:
    """Describe what evaluations found as a SARIF log.

    Args:
        records: Evaluations.
        paths: File of each record; results point at it, relative to the working folder if it is
            inside.
        failures: What does not pass, from ``failures_of``.

    Returns:
        A JSON object with one run. It has a rule for each self-check that ran, for each mark, and
        for ``--fail-under``; and a result for each check that did not pass (``error`` if it failed,
        ``warning`` if it warned), each mark (``warning`` if it makes the score unreliable, else
        ``note``) and each accuracy that is too low (``error``).

    Source:
        OASIS, Static Analysis Results Interchange Format (SARIF) 2.1.0.

    Example:
        >>> log = sarif_log([{"model": "net", "suites": []}], [Path("records/net.json")])
        >>> log["version"], [rule["id"] for rule in log["runs"][0]["tool"]["driver"]["rules"]]
        ('2.1.0', ['fail-under'])
    """
    rules = {FAIL_UNDER: "Accuracy at a strength must reach the value that was asked for."}
    results = [
        _result(FAIL_UNDER, "error", failure.text, paths[failure.record])
        for failure in failures
        if failure.kind == "requirement"
    ]
    for record, path in zip(records, paths, strict=True):
        for check in checks_of(record):
            rules.setdefault(_id("check", check["name"]), f"Self-check {check['name']}.")
        results += [
            _result(
                _id("check", check.name),
                _LEVELS[check.verdict],
                f"{check.model}: {check.text}",
                path,
            )
            for check in open_checks(record)
        ]
        for mark in marks_of(record):
            rules.setdefault(_id("mark", mark["name"]), f"Mark: {mark['name']}.")
            level = "warning" if mark["name"] in UNRELIABLE_MARKS else "note"
            text = f"{record['model']}: {mark['name']}. {mark['meaning']}"
            results.append(_result(_id("mark", mark["name"]), level, text, path))
    identities = list(rules)
    for result in results:
        result["ruleIndex"] = identities.index(result["ruleId"])
    driver = {
        "name": "Equipoise",
        "version": version("equipoise"),
        "rules": [
            {"id": identity, "name": identity, "shortDescription": {"text": text}}
            for identity, text in rules.items()
        ],
    }
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _id(kind: str, name: str) -> str:
    """Identity of a rule, such as ``check/black-box``."""
    return f"{kind}/{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}"


def _result(rule: str, level: str, text: str, path: Path) -> dict[str, Any]:
    absolute, here = path.resolve(), Path.cwd()
    uri = (
        quote(absolute.relative_to(here).as_posix())
        if absolute.is_relative_to(here)
        else absolute.as_uri()
    )
    place = {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}
    return {
        "ruleId": rule,
        "level": level,
        "message": {"text": text},
        "locations": [{"physicalLocation": place}],
    }
