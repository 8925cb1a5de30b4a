"""Print the self-checks of evaluations: a line of counts, and every check that did not pass."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from equipoise.evaluation.collapse import COLLAPSED, collapse_of
from equipoise.report.record import Record
from equipoise.runtime.errors import InvalidInput

SAME_WEIGHT = 0.01
"""Mean fusing weights that differ by less than this share of their range count as the same."""
VERDICTS = ("pass", "warn", "fail")
_STYLES = {"warn": "yellow", "fail": "red"}


@dataclass(frozen=True, kw_only=True)
class OpenCheck:
    """A self-check that did not pass.

    Args:
        model: Name of the model, with its training seed where the record names one.
        name: Name of the check.
        verdict: Severity.
        found: What the check observed.
        meaning: What the observation means for the numbers.
        could_flatter: By how much the score could be too high because of it, as a share of the
            images; ``None`` if the check does not say.
    """

    model: str
    name: str
    verdict: Literal["warn", "fail"]
    found: str
    meaning: str
    could_flatter: float | None = None

    @property
    def text(self) -> str:
        """Observation, meaning, and by how many points the score could be too high."""
        return " ".join(filter(None, (self.found, self.meaning, self.flatters)))

    @property
    def flatters(self) -> str:
        """Sentence with the points by which the score could be too high; empty if unknown."""
        if self.could_flatter is None:
            return ""
        if self.could_flatter <= 0:
            return "Could not flatter the score."
        return f"Could flatter the score by up to {100 * self.could_flatter:.1f} points."


def checks_line(*records: Record) -> str:
    """Count the verdicts of all self-checks, on one line.

    Args:
        records: Evaluations; older ones hold no checks, which the line mentions.

    Returns:
        Text such as ``checks: 9 pass, 1 warn, 1 fail``.

    Raises:
        ValueError: If a verdict is not one of ``VERDICTS``.

    Example:
        >>> checks = [{"name": "mode", "verdict": "pass"}, {"name": "noise", "verdict": "warn"}]
        >>> checks_line({"model": "afa", "self_checks": checks})
        'checks: 1 pass, 1 warn, 0 fail'
        >>> checks_line({"model": "afa"})
        'checks: none recorded'
    """
    counts = Counter(check["verdict"] for record in records for check in checks_of(record))
    without = sum(not record.get("self_checks") for record in records)
    if without == len(records) and not counts:
        return "checks: none recorded"
    line = "checks: " + ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    return line + (f"; {without} of {len(records)} records have none" if without else "")


def open_checks(*records: Record) -> list[OpenCheck]:
    """List the checks that did not pass: failures first, otherwise in the order of the records.

    Raises:
        ValueError: If a verdict is not one of ``VERDICTS``.
    """
    checks = [
        OpenCheck(
            model=_name(record),
            name=check["name"],
            verdict=check["verdict"],
            found=check["found"],
            meaning=check["meaning"],
            could_flatter=check.get("numbers", {}).get("could_flatter"),
        )
        for record in records
        for check in checks_of(record)
        if check["verdict"] != "pass"
    ]
    return sorted(checks, key=lambda check: check.verdict != "fail")


def rich_checks(*records: Record) -> Group:
    """Line of counts, warnings and the checks that did not pass, for the terminal."""
    parts: list[Text | Padding] = [Text(checks_line(*records))]
    for record in records:
        for warning in model_warnings(record):
            parts.append(Text.assemble(("warning", "yellow"), f" {warning}"))
    for check in open_checks(*records):
        verdict = (check.verdict, _STYLES[check.verdict])
        parts.append(Text.assemble(verdict, f" {check.model}: ", (check.name, "bold")))
        parts.append(
            Padding(
                Text("\n".join(filter(None, (check.found, check.meaning, check.flatters)))),
                (0, 0, 0, 5),
            )
        )
    return Group(*parts)


def markdown_checks(*records: Record) -> str:
    """Line of counts and a list of the checks that did not pass, as Markdown.

    Example:
        >>> check = {"name": "noise", "verdict": "warn", "found": "Noise breaks 3 images.",
        ...          "meaning": "The attack may be too weak."}
        >>> print(markdown_checks({"model": "afa", "self_checks": [check]}), end="")
        checks: 0 pass, 1 warn, 0 fail
        <BLANKLINE>
        - **warn** afa: noise. Noise breaks 3 images. The attack may be too weak.
    """
    listed = [
        f"- **{check.verdict}** {check.model}: {check.name}. {check.text}"
        for check in open_checks(*records)
    ]
    return "\n".join([checks_line(*records), *([""] if listed else []), *listed]) + "\n"


def checks_of(record: Record) -> list[Record]:
    """Self-checks of a record; empty for older records.

    A record of a collapsed model fails one more check, whatever its own checks found.

    Raises:
        ValueError: If a verdict is not one of ``VERDICTS``.
    """
    checks: list[Record] = record.get("self_checks") or []
    for check in checks:
        if check["verdict"] not in VERDICTS:
            raise InvalidInput(
                f"the verdict of a check must be one of {', '.join(VERDICTS)}, got "
                f"{check['verdict']!r} for {check['name']} of {record['model']}; "
                "evaluate the model again."
            )
    collapse = collapse_of(record)
    own = [check for check in checks if check["name"] == COLLAPSED]
    if collapse is None or any(check["verdict"] == "fail" for check in own):
        return checks
    meaning = "The model has collapsed: what it scores is chance and no robustness."
    failed = {"name": COLLAPSED, "verdict": "fail", "found": collapse, "meaning": meaning}
    return [*(check for check in checks if check not in own), failed]


def _name(record: Record) -> str:
    seed = record.get("training_seed")
    return record["model"] if seed is None else f"{record['model']} seed {seed}"


def model_warnings(record: Record) -> list[str]:
    """Warnings of the model's training, and one if its fusing weight never changes.

    Args:
        record: An evaluation.

    Example:
        >>> weights = {"through_generator": [{"mean": 0.94004}, {"mean": 0.94003}]}
        >>> record = {"model": "afa", "fusing_weight": weights, "epsilons_written": ["0", "8/255"]}
        >>> model_warnings(record)
        ['afa: the gate gives the same weight whatever the strength: W0 is 0.05996 for clean \
images and 0.05997 at 8/255. The model is a fixed mixture of its two branches.']
    """
    name = record["model"]
    warnings = [f"{name}: {warning}" for warning in record.get("training_warnings", [])]
    curve = record.get("fusing_weight", {}).get("through_generator", [])
    if len(curve) > 1:
        clean, strongest = (1 - curve[level]["mean"] for level in (0, -1))
        highest = record.get("r_free", {}).get("range", (0.0, 1.0))[1]
        if abs(clean - strongest) < SAME_WEIGHT * highest:
            warnings.append(
                f"{name}: the gate gives the same weight whatever the strength: W0 is {clean:.5f} "
                f"for clean images and {strongest:.5f} at {record['epsilons_written'][-1]}. The "
                "model is a fixed mixture of its two branches."
            )
    return warnings
