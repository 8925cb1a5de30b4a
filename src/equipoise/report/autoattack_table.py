"""Our suites compared with AutoAttack, from the record of ``benchmarks/against_autoattack.py``."""

from collections.abc import Mapping
from typing import Any

from equipoise.records.epsilon import format_epsilon
from equipoise.runtime.errors import InvalidInput


def autoattack_table(record: Mapping[str, Any]) -> str:
    """Table of models under our suites and under AutoAttack, as Markdown.

    A model that was measured twice is shown once, with the most images.

    Args:
        record: Record as the script writes it.

    Returns:
        The table and its caption.

    Raises:
        ValueError: If the record holds no model.
    """
    rows = record.get("models", [])
    if not rows:
        raise InvalidInput("the record of against_autoattack.py holds no model; run the script.")
    most_images: dict[tuple[str, int], int] = {}
    for row in rows:
        key = row["model"], row["seed"]
        most_images[key] = max(most_images.get(key, 0), row["images"])
    rows = [row for row in rows if row["images"] == most_images[row["model"], row["seed"]]]
    head = ["model", "seed", "ε", "images", "AutoAttack", "AutoAttack, package", "ours"]
    head += ["broken by AutoAttack only", "broken by ours only", "passes"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join([*lines, "", _caption(rows)]) + "\n"


def _caption(rows: list[Mapping[str, Any]]) -> str:
    gap = max(100 * (row["ours"]["accuracy"] - row["autoattack"]["accuracy"]) for row in rows)
    both = [row for row in rows if "pyautoattack" in row]
    parity = (
        "AutoAttack in our engine and AutoAttack in its own package disagree on "
        f"{sum(map(_disagreements, both))} of {sum(row['images'] for row in both)} images. "
    )
    return (
        f"Accuracy in % at ε. `ours` is `standard` with `adaptive`; for none of the {len(rows)} "
        f"models is it more than {max(gap, 0):.1f} points above AutoAttack. "
        f"{parity if both else ''}Passes: forward and backward passes of ours divided by those of "
        "AutoAttack in our engine; the record also has seconds."
    )


def _disagreements(row: Mapping[str, Any]) -> int:
    """Number of images on which AutoAttack's package and our engine disagree."""
    images = row["autoattack"]
    package: int = images["right_here_and_broken_by_autoattack"]
    engine: int = images["broken_here_and_right_under_autoattack"]
    return package + engine


def _cells(row: Mapping[str, Any]) -> list[str]:
    auto, ours, package = row["autoattack"], row["ours"], row.get("pyautoattack")
    return [
        row["model"],
        f"{row['seed']}",
        format_epsilon(row["epsilon"]),
        f"{row['images']}",
        f"{100 * auto['accuracy']:.1f}",
        "" if package is None else f"{100 * package['accuracy']:.1f}",
        f"{100 * ours['accuracy']:.1f}",
        f"{ours['right_here_and_broken_by_autoattack']}",
        f"{ours['broken_here_and_right_under_autoattack']}",
        f"{_passes(ours) / max(1, _passes(auto)):.2f}",
    ]


def _passes(counts: Mapping[str, Any]) -> int:
    return int(counts["forward_passes"]) + int(counts["backward_passes"])
