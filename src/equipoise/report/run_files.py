"""Read the other files of the run that a record came from: recipe, training curves, gallery."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equipoise.records.epsilon import format_epsilon
from equipoise.report.record import Record
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import read_json

GALLERY_FORMAT = 1


def gallery_path(record: Path) -> Path:
    """Path of a record's gallery.

    Example:
        >>> gallery_path(Path("runs/demo/records/afa.json")).as_posix()
        'runs/demo/gallery/afa.json'
    """
    return record.parent.parent / "gallery" / record.name


def read_recipe(record: Path) -> dict[str, Any] | None:
    """Recipe of the run that a record came from.

    Args:
        record: Path of the record.

    Returns:
        The recipe as JSON, or ``None`` if the run folder holds none.

    Raises:
        RunError: If the file is damaged.
    """
    path = record.parent.parent / "recipe.json"
    recipe: dict[str, Any] | None = read_json(path) if path.exists() else None
    return recipe


def extractor_budgets(method: Mapping[str, Any]) -> list[str]:
    """Budgets of the AFS extractors that are in the mask, as text.

    Args:
        method: Method of a recipe, as JSON.

    Example:
        >>> extractor_budgets({"budgets": [0.0, 4 / 255, 8 / 255], "mask": "101"})
        ['0', '8/255']
    """
    mask = method.get("mask") or "1" * len(method["budgets"])
    pairs = zip(method["budgets"], mask, strict=True)
    return [format_epsilon(budget) for budget, bit in pairs if bit == "1"]


def member_names(method: Mapping[str, Any]) -> list[str]:
    """Names of the members of a stack: their folders or functions, otherwise their budgets.

    Args:
        method: Method of a recipe, as JSON.
    """
    extractors = method.get("extractors") or []
    if not extractors:
        return [f"ε = {budget}" for budget in extractor_budgets(method)]
    mask = method.get("mask") or "1" * len(extractors)
    return [Path(name).name for name, bit in zip(extractors, mask, strict=True) if bit == "1"]


def read_training_curves(record: Path) -> dict[str, list[dict[str, Any]]]:
    """Training curves of the run that a record came from.

    Args:
        record: Path of the record.

    Returns:
        For each stage, in the order of their names, one entry for each epoch; empty if the run
        folder holds no curves.
    """
    curves = {}
    for path in sorted((record.parent.parent / "stages").glob("*/metrics.jsonl")):
        epochs = []
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):  # a line cut short when the run was killed
                epochs.append(json.loads(line))
        curves[path.parent.name] = epochs
    return curves


def read_gallery(path: Path, record: Record) -> dict[str, Any] | None:
    """Gallery of a record.

    Args:
        path: Path of the record.
        record: The record.

    Returns:
        The gallery as JSON, or ``None`` if there is none.

    Raises:
        RunError: If it has another format, or shows other images than the record's.
    """
    file = gallery_path(path)
    if not file.exists():
        return None
    gallery: dict[str, Any] = read_json(file)
    same_format = gallery.get("format") == GALLERY_FORMAT
    if not same_format or gallery["images_sha256"] != record["images_sha256"]:
        raise RunError(
            f"{file} must be a gallery of format {GALLERY_FORMAT} and show the record's images; "
            "make it again with --gallery."
        )
    return gallery
