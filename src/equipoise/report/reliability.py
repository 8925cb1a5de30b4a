"""Whether a record's score is reliable enough to be called the best, or to be published."""

from collections.abc import Sequence

from equipoise.evaluation.collapse import COLLAPSED, above_chance
from equipoise.report.marks import APART, BLACK_BOX, black_box_only, marks_of
from equipoise.report.record import Record, attack_count
from equipoise.report.self_checks import open_checks

RANKING_RULE = (
    "Ranked by the average accuracy over all strengths, clean included. Models that fail a check "
    "are below the others, and those that were attacked as a black box only are last. Neither is "
    "called the best, nor is a model at 0 or at chance at the strongest attack."
)
FAILED = "a check failed: not reliable"
"""Heading of the models with a failed check."""
GROUPS = ("", FAILED, APART)
"""Headings of the groups in which models are ranked, in order; the first has none."""
UNRELIABLE_MARKS = {
    BLACK_BOX: "gradients were not used",
    "randomised": "RobustBench requires a deterministic model",
    "stateful": "its answers depend on earlier queries",
    "stand-in gradient": "gradients are those of a stand-in",
    "reject option": "accuracy counts rejected images by a rule of its own",
}
"""Marks that make a score unreliable in RobustBench's sense, and why."""
_MISSED = {"black box", "missed"}
"""Checks whose warning means that the evaluation left breakable images unbroken."""


def group_of(records: Sequence[Record]) -> str:
    """Heading of the group in which a model is ranked.

    Args:
        records: Records of one model, one for each training seed.

    Returns:
        One of ``GROUPS``.
    """
    if any(map(black_box_only, records)):
        return APART
    failed = any(check.verdict == "fail" for check in open_checks(*records))
    return FAILED if failed else ""


def can_be_best(records: Sequence[Record]) -> bool:
    """Whether a model may be called the best: no record of it breaks ``RANKING_RULE``.

    Args:
        records: Records of one model, one for each training seed.
    """
    return group_of(records) == "" and all(map(above_chance, records))


def unreliable_reasons(record: Record) -> list[str]:
    """Say why the score of a record is not reliable.

    Args:
        record: An evaluation.

    Returns:
        One clause for each reason: a failed check, a warning that the attacks missed images or
        could flatter the score, checks or attacks that did not run, and marks. Empty for a
        reliable score.

    Source:
        Croce et al. 2021 (2010.09670), Sec. 3: RobustBench accepts models that have gradients and
        a deterministic forward pass without an optimisation loop.

    Example:
        >>> attacks = [{"name": "pgd", "kind": "white box"}]
        >>> record = {"model": "net", "images": 9, "epsilons": [0.0, 0.1],
        ...           "headline": {"accuracy": [0.9, 0.4]}, "suites": [{"attacks": attacks}]}
        >>> unreliable_reasons(record)
        ['no self-check ran']
    """
    reasons = _of_checks(record)
    if not record.get("self_checks"):
        reasons.append("no self-check ran")
    if attack_count(record) == 0:
        reasons.append("no attack ran")
    return reasons + [
        f"{mark['name']}: {UNRELIABLE_MARKS[mark['name']]}"
        for mark in marks_of(record)
        if mark["name"] in UNRELIABLE_MARKS
    ]


def warning_of(record: Record) -> str | None:
    """One sentence to put above the scores of an unreliable model; ``None`` for a reliable one.

    A model is warned of if it has collapsed, if a check failed or found that images were missed,
    or if it was attacked as a black box only.
    """
    for check in open_checks(record):
        if (check.name, check.verdict) == (COLLAPSED, "fail"):
            return f"This model has collapsed. {check.found}"
    reasons = _of_checks(record)
    if black_box_only(record):
        reasons.append(f"{BLACK_BOX}: {UNRELIABLE_MARKS[BLACK_BOX]}")
    return f"The scores are not reliable ({'; '.join(reasons)})." if reasons else None


def _of_checks(record: Record) -> list[str]:
    """Checks that failed, found missed images, or say that the score could be too high."""
    return [
        f"check {check.name}: {check.verdict}"
        for check in open_checks(record)
        if check.verdict == "fail" or check.name in _MISSED or (check.could_flatter or 0) > 0
    ]
