"""Our suites beside AutoAttack, from the record of ``benchmarks/against_autoattack.py``."""

from collections.abc import Mapping
from typing import Any

from equipoise.records.epsilon import format_epsilon


def reference_table(record: Mapping[str, Any]) -> str:
    """The models of one such record as Markdown, with what they have in common.

    Of a model that was measured twice, the row of the most images is shown.

    Args:
        record: As the script writes it.

    Returns:
        The table and its caption.

    Raises:
        ValueError: If the record holds no model.
    """
    rows = record.get("models", [])
    if not rows:
        raise ValueError("the record of against_autoattack.py holds no model; run the script.")
    most: dict[tuple[str, int], int] = {}
    for row in rows:
        key = row["model"], row["seed"]
        most[key] = max(most.get(key, 0), row["images"])
    rows = [row for row in rows if row["images"] == most[row["model"], row["seed"]]]
    head = ["model", "seed", "ε", "images", "AutoAttack", "by its package alone", "ours"]
    head += ["left by ours and broken by it", "left by it and broken by ours", "passes"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    behind = max(100 * (row["ours"]["accuracy"] - row["autoattack"]["accuracy"]) for row in rows)
    both = [row for row in rows if "pyautoattack" in row]
    apart = sum(_differ(row) for row in both)
    parity = (
        "Through our engine and by its package alone, AutoAttack's verdicts differ on "
        f"{apart} of {sum(row['images'] for row in both)} images. "
    )
    said = (
        f"Accuracy in % at ε. `ours` is `standard` with `adaptive`; of {len(rows)} models, none "
        f"has more than {max(behind, 0):.1f} points over AutoAttack. {parity if both else ''}"
        "Passes are the forward and backward passes of ours as a share of AutoAttack's in our "
        "engine; the record has seconds, too."
    )
    return "\n".join([*lines, "", said]) + "\n"


def _differ(row: Mapping[str, Any]) -> int:
    """Images on which the package alone and the engine say otherwise."""
    found = row["autoattack"]
    ours: int = found["right_here_and_broken_by_autoattack"]
    theirs: int = found["broken_here_and_right_under_autoattack"]
    return ours + theirs


def _cells(row: Mapping[str, Any]) -> list[str]:
    theirs, ours, alone = row["autoattack"], row["ours"], row.get("pyautoattack")
    return [
        row["model"],
        f"{row['seed']}",
        format_epsilon(row["epsilon"]),
        f"{row['images']}",
        f"{100 * theirs['accuracy']:.1f}",
        "" if alone is None else f"{100 * alone['accuracy']:.1f}",
        f"{100 * ours['accuracy']:.1f}",
        f"{ours['right_here_and_broken_by_autoattack']}",
        f"{ours['broken_here_and_right_under_autoattack']}",
        f"{_passes(ours) / max(1, _passes(theirs)):.2f}",
    ]


def _passes(found: Mapping[str, Any]) -> int:
    return int(found["forward_passes"]) + int(found["backward_passes"])
