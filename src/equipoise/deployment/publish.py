"""Write a model folder's card from its records, and upload the folder to the Hugging Face Hub."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equipoise.deployment.model_card import model_card
from equipoise.deployment.robustbench import robustbench_entry
from equipoise.models.io.hub import HUB, upload
from equipoise.models.io.model_folder import (
    CARD,
    CONFIG,
    WEIGHTS,
    ModelFolderError,
    home_of,
    load,
    locate,
    read_config,
    weights_sha256,
)
from equipoise.records.files import iterate_records
from equipoise.records.redaction import without_folders
from equipoise.report.score_card import fullest_by_threat, preference_in, records_of_model
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import read_json, write_bytes, write_json
from equipoise.runtime.run_folder import RunFolder
from equipoise.runtime.trust import Trusted


def records_of(folder: Path) -> list[dict[str, Any]]:
    """Records of a model folder's present weights on test images, the newest last.

    Raises:
        ModelFolderError: If it is not a model folder.
        RunError: If a record is damaged.
    """
    card = read_config(folder)["card"]
    card = {"name": folder.name} | card
    records = list(iterate_records(RunFolder(home_of(folder)).records))
    records.sort(key=lambda pair: pair[0].stat().st_mtime_ns)
    return records_of_model([record for _, record in records], card, weights_sha256(folder))


def record_at(folder: Path, preference: float | None = None) -> dict[str, Any] | None:
    """The record to show for a model: the most complete one on its own data and with its own norm.

    Args:
        folder: The model folder.
        preference: Lambda, for a conditional network.

    Returns:
        The record. If there is none on the model's own data or with its norm, another one; ``None``
        if there is no record at all.
    """
    suffix = "" if preference is None else f"{preference:g}"
    card = read_config(folder)["card"]
    name = card.get("name", folder.name)
    records = fullest_by_threat(
        [r for r in records_of(folder) if preference_in(r["model"], name) == suffix]
    )
    norm, digest = card.get("evaluation", {}).get("norm", "Linf"), card.get("data_digest")

    def distance(record: dict[str, Any]) -> tuple[bool, bool, bool]:
        other = record.get("data_digest", digest) != digest
        return record["data"] != card.get("data", record["data"]), other, record["norm"] != norm

    return min(records, key=distance, default=None)


def write_card(model: Path | str) -> Path:
    """Write a model folder's README.md from its configuration and records.

    Returns:
        The file.

    Raises:
        ModelFolderError: If it is not a local model folder.
        RunError: If a record is damaged, or the file cannot be written.
    """
    if str(model).startswith(HUB):
        raise ModelFolderError(
            f"a card can only be written for a local folder, got {model}; write it where the model "
            "was trained, and push it again."
        )
    folder = locate(model)
    write_bytes(folder / CARD, _card(folder))
    return folder / CARD


def _card(folder: Path) -> bytes:
    latency = RunFolder(home_of(folder)).latency
    measured = read_json(latency) if latency.exists() else None
    return model_card(read_config(folder), records_of(folder), measured).encode()


def robustbench(model: Path | str, file: Path) -> list[str]:
    """Write a model's entry for RobustBench.

    Args:
        model: A model folder or run folder.
        file: JSON file to write.

    Returns:
        What the entry lacks, one sentence each.

    Raises:
        RunError: If the model has not been evaluated, or the file cannot be written.
    """
    folder = locate(model)
    document = read_config(folder)
    record = record_at(folder, document["model"].get("default"))  # OAT's default preference
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
    """Upload a model folder with its card and records to the Hugging Face Hub.

    Absolute paths are cut to their last part, so that none of this machine's folders are
    published. Log in first: ``hf auth login``.

    Args:
        model: A model folder, or a run folder that has one.
        repository: ``owner/name``; it is created if it does not exist.
        private: Whether a new repository is private; by default the owner's setting.
        trust: Code that the model folder names and that may run, as in ``load``.

    Returns:
        The URL of the commit. ``equipoise.load("hf://owner/name")`` loads the model.

    Raises:
        ModelFolderError: If the model does not load.
        HubError: If the upload fails.
    """
    folder = locate(model)
    load(folder, trust=trust)
    contents: dict[str, bytes | Path] = {
        CONFIG: _redacted(read_config(folder)),
        WEIGHTS: folder / WEIGHTS,
        CARD: _card(folder),
    }
    for path, record in iterate_records(RunFolder(home_of(folder)).records):
        contents[f"records/{path.name}"] = _redacted(record)
    return upload(repository, contents, private=private)


def _redacted(content: Any) -> bytes:
    return (json.dumps(without_folders(content), indent=2, allow_nan=False) + "\n").encode()
