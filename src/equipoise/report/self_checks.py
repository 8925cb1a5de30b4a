"""What an evaluation's checks of itself found: one line for under a table, and what is amiss."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from equipoise.report.table import Record

VERDICTS = ("pass", "warn", "fail")
_STYLES = {"warn": "yellow", "fail": "red"}


@dataclass(frozen=True, kw_only=True)
class OpenCheck:
    """A check that did not pass.

    Args:
        of: The model, with its training seed where the record names one.
        name: The check's name.
        verdict: How bad it is.
        found: What was seen.
        meaning: What that says about the numbers.
    """

    of: str
    name: str
    verdict: Literal["warn", "fail"]
    found: str
    meaning: str


def checks_line(*records: Record) -> str:
    """How many checks passed, over all records, on one line.

    Args:
        records: Those of the table above; older ones hold no checks, which the line says.

    Returns:
        A text such as ``checks: 9 pass, 1 warn, 1 fail``.

    Raises:
        ValueError: If a verdict is none of ``VERDICTS``.
    """
    found = Counter(check["verdict"] for record in records for check in checks_of(record))
    without = sum(not checks_of(record) for record in records)
    if without == len(records):
        return "checks: none recorded"
    line = "checks: " + ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS)
    return line + (f"; {without} of {len(records)} records hold none" if without else "")


def open_checks(*records: Record) -> list[OpenCheck]:
    """All checks that did not pass, failures first, otherwise in the order of the records.

    Raises:
        ValueError: If a verdict is none of ``VERDICTS``.
    """
    found = [
        OpenCheck(
            of=_name(record),
            name=check["name"],
            verdict=check["verdict"],
            found=check["found"],
            meaning=check["meaning"],
        )
        for record in records
        for check in checks_of(record)
        if check["verdict"] != "pass"
    ]
    return sorted(found, key=lambda check: check.verdict != "fail")


def rich_checks(*records: Record) -> Group:
    """The line and what did not pass, for a terminal."""
    parts: list[Text | Padding] = [Text(checks_line(*records))]
    for check in open_checks(*records):
        style = _STYLES[check.verdict]
        parts.append(Text.assemble((check.verdict, style), f" {check.of}: ", (check.name, "bold")))
        parts.append(Padding(Text(f"{check.found}\n{check.meaning}"), (0, 0, 0, 5)))
    return Group(*parts)


def markdown_checks(*records: Record) -> str:
    """The line and, as a list, what did not pass."""
    listed = [
        f"- **{check.verdict}** {check.of}: {check.name}. {check.found} {check.meaning}"
        for check in open_checks(*records)
    ]
    return "\n".join([checks_line(*records), *([""] if listed else []), *listed]) + "\n"


def checks_of(record: Record) -> list[Record]:
    """A record's self-checks; older records hold none.

    Raises:
        ValueError: If a verdict is none of ``VERDICTS``.
    """
    checks: list[Record] = record.get("self_checks") or []
    for check in checks:
        if check["verdict"] not in VERDICTS:
            raise ValueError(
                f"the verdict of a check must be one of {', '.join(VERDICTS)}, got "
                f"{check['verdict']!r} for {check['name']} of {record['model']}; "
                "evaluate the model again."
            )
    return checks


def _name(record: Record) -> str:
    seed = record.get("training_seed")
    return record["model"] if seed is None else f"{record['model']} seed {seed}"
