"""What lies beside a record in its run folder: recipe, training curves, gallery."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equipoise.records.epsilon import format_epsilon
from equipoise.report.table import Record
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import read_json

GALLERY_FORMAT = 1


def gallery_path(record: Path) -> Path:
    """Where the gallery of a record lies: ``gallery/<name>`` for ``records/<name>``."""
    return record.parent.parent / "gallery" / record.name


def recipe_of(record: Path) -> dict[str, Any] | None:
    """The recipe of the run that a record came from.

    Returns:
        Its JSON object, or ``None`` where there is none beside the record.

    Raises:
        RunError: If it is damaged.
    """
    path = record.parent.parent / "recipe.json"
    found: dict[str, Any] | None = read_json(path) if path.exists() else None
    return found


def budgets_of(method: Mapping[str, Any]) -> list[str]:
    """How the budgets of AFS's extractors are written, of those in its mask.

    Args:
        method: The recipe's method, as JSON.
    """
    kept = method.get("mask") or "1" * len(method["budgets"])
    pairs = zip(method["budgets"], kept, strict=True)
    return [format_epsilon(budget) for budget, bit in pairs if bit == "1"]


def members_of(method: Mapping[str, Any]) -> list[str]:
    """What the members of a stack are called: as their folders or functions, else by budget."""
    named = method.get("extractors") or []
    if not named:
        return [f"ε = {budget}" for budget in budgets_of(method)]
    kept = method.get("mask") or "1" * len(named)
    return [Path(name).name for name, bit in zip(named, kept, strict=True) if bit == "1"]


def curves_of(record: Path) -> dict[str, list[dict[str, Any]]]:
    """Training curves of the run that a record came from.

    Returns:
        For each stage, in the order of their names, one entry an epoch; empty where there are none.
    """
    found = {}
    for path in sorted((record.parent.parent / "stages").glob("*/metrics.jsonl")):
        entries = []
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):  # a line cut short by a kill
                entries.append(json.loads(line))
        found[path.parent.name] = entries
    return found


def gallery_of(path: Path, record: Record) -> dict[str, Any] | None:
    """The gallery of a record.

    Args:
        path: Of the record.
        record: The record.

    Returns:
        Its JSON object, or ``None`` where there is none.

    Raises:
        RunError: If it is of another format, or of other images than the record.
    """
    place = gallery_path(path)
    if not place.exists():
        return None
    found: dict[str, Any] = read_json(place)
    if found.get("format") != GALLERY_FORMAT or found["images_sha256"] != record["images_sha256"]:
        raise RunError(
            f"{place} is no gallery of format {GALLERY_FORMAT} of the record's images; make it "
            "again with --gallery."
        )
    return found
