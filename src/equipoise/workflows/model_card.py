"""A model folder's card, made from its records; and the folder on its way to the hub."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equipoise.models.io.hub import HUB, upload
from equipoise.models.io.model_folder import (
    CARD,
    CONFIG,
    WEIGHTS,
    ModelFolderError,
    load,
    locate,
    read_config,
)
from equipoise.models.io.trust import Trusted
from equipoise.records.files import iterate_records
from equipoise.records.redaction import without_folders
from equipoise.report.model_card import model_card
from equipoise.report.robustbench import robustbench_entry
from equipoise.report.score_card import of_each_threat, of_model, preference_in
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import write_bytes, write_json


def weights_sha256(place: Path) -> str:
    """Hash of a model folder's weights, by which its records know it."""
    with (place / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def home_of(place: Path) -> Path:
    """Where the records of a model folder lie: its run folder, or itself if it is no run's."""
    return place.parent if place.name == "model" else place


def records_of(place: Path) -> list[dict[str, Any]]:
    """Records of a model folder's present weights, on test images, the newest last.

    Raises:
        ModelFolderError: If it is no model folder.
        RunError: If a record is damaged.
    """
    card = read_config(place)["card"]
    card = {"name": place.name} | card
    found = list(iterate_records(home_of(place) / "records"))
    found.sort(key=lambda pair: pair[0].stat().st_mtime_ns)
    return of_model([record for _, record in found], card, weights_sha256(place))


def record_at(place: Path, preference: float | None = None) -> dict[str, Any] | None:
    """The record that speaks for a model: the fullest on its own data under its recipe's norm.

    Args:
        place: The model folder.
        preference: For a conditional network, the lambda.

    Returns:
        The record; one on other data, or under another norm, if there is no other, ``None`` if
        there is none at all.
    """
    ending = "" if preference is None else f"{preference:g}"
    card = read_config(place)["card"]
    name = card.get("name", place.name)
    found = of_each_threat(
        [r for r in records_of(place) if preference_in(r["model"], name) == ending]
    )
    norm, digest = card.get("evaluation", {}).get("norm", "Linf"), card.get("data_digest")

    def distance(record: dict[str, Any]) -> tuple[bool, bool, bool]:
        other = record.get("data_digest", digest) != digest
        return record["data"] != card.get("data", record["data"]), other, record["norm"] != norm

    return min(found, key=distance, default=None)


def write_card(model: Path | str) -> Path:
    """Write a model folder's README.md anew, from its configuration and records.

    Returns:
        The file.

    Raises:
        ModelFolderError: If it is no model folder of this machine.
        RunError: If a record is damaged, or the file cannot be written.
    """
    if str(model).startswith(HUB):
        raise ModelFolderError(f"{model} is on the hub: its card is written where it is trained.")
    place = locate(model)
    text = model_card(read_config(place), records_of(place))
    write_bytes(place / CARD, text.encode())
    return place / CARD


def robustbench(model: Path | str, file: Path) -> list[str]:
    """Write a model's entry for RobustBench.

    Args:
        model: A model folder or run folder.
        file: The JSON file.

    Returns:
        What is missing in it, a sentence each.

    Raises:
        RunError: If the model has not been evaluated, or the file cannot be written.
    """
    place = locate(model)
    document = read_config(place)
    record = record_at(place, document["model"].get("default"))  # OAT's own preference
    if record is None:
        raise RunError(f"{model} has no record; run: equipoise evaluate {model}")
    entry, notes = robustbench_entry(document, record)
    write_json(file, entry)
    return notes


def push(
    model: Path | str,
    repository: str,
    *,
    private: bool | None = None,
    trust: Sequence[Trusted] = (),
) -> str:
    """Upload a model folder, with its card and records, to the Hugging Face Hub.

    Absolute paths of this machine are cut to their last part. Log in first: ``hf auth login``.

    Args:
        model: A model folder, or a run folder that has one.
        repository: ``owner/name``; created if there is none.
        private: Whether a new one is private; by default what its owner has chosen.

    Returns:
        The address of the commit. ``equipoise.load("hf://owner/name")`` loads it.

    Raises:
        ModelFolderError: If the folder holds no model that loads.
        HubError: If the hub does not take it.
    """
    place = locate(model)
    load(place, trust=trust)
    contents: dict[str, bytes | Path] = {
        CONFIG: _outgoing(read_config(place)),
        WEIGHTS: place / WEIGHTS,
        CARD: model_card(read_config(place), records_of(place)).encode(),
    }
    for path, record in iterate_records(home_of(place) / "records"):
        contents[f"records/{path.name}"] = _outgoing(record)
    return upload(repository, contents, private=private)


def _outgoing(content: Any) -> bytes:
    return (json.dumps(without_folders(content), indent=2, allow_nan=False) + "\n").encode()
