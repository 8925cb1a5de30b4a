"""Select a model's records, and reduce one to a score card that is stored with the model."""

from collections.abc import Sequence
from typing import Any

from equipoise.report.marks import black_box_only, marks_of
from equipoise.report.record import Record, attack_count
from equipoise.report.reliability import warning_of
from equipoise.report.self_checks import VERDICTS, checks_of, open_checks

FORMAT = 1


def records_of_model(records: Sequence[Record], card: Record, weights_sha256: str) -> list[Record]:
    """Select the records of exactly these weights on test images.

    Args:
        records: Evaluations of any models.
        card: Card of the model.
        weights_sha256: Hash of its weights. Older records hold no hash; they are selected by model
            name and training seed alone.

    Returns:
        The selected records, in their order.
    """
    return [
        record
        for record in records
        if has_name(record["model"], str(card.get("name", record["model"])))
        and record.get("part", "test") == "test"
        and record.get("training_seed") == card.get("seed")
        and record.get("weights_sha256", weights_sha256) == weights_sha256
    ]


def has_name(model: str, name: str) -> bool:
    """Whether a record's model has a card's name, with or without a preference after it."""
    return model == name or bool(preference_in(model, name))


def preference_in(model: str, name: str) -> str:
    """Preference after the model's own name in a record; empty where there is none.

    Args:
        model: Model in a record, such as ``"oat@0.2"``.
        name: Name of the model, which may contain an ``@`` itself.

    Example:
        >>> preference_in("oat_digits@0.2", "oat_digits")
        '0.2'
    """
    return model[len(name) + 1 :] if model.startswith(f"{name}@") else ""


def fullest_by_threat(records: Sequence[Record]) -> list[Record]:
    """Select one record for each model name, data set and norm: the most complete, then the last.

    Args:
        records: Evaluations in the order in which they were made.

    Returns:
        Records, in the order in which their threats first appear. A record is more complete if it
        holds attacks at all, then if they used gradients, then if it has more images, more attacks,
        more strengths.
    """
    chosen: dict[tuple[str, ...], Record] = {}
    for record in records:
        key = (record["model"], record["data"], record.get("data_digest", ""), record["norm"])
        if key not in chosen or _completeness(record) >= _completeness(chosen[key]):
            chosen[key] = record
    return list(chosen.values())


def score_card(card: Record, record: Record | None) -> Record:
    """Name, classes and scores of a model, as they are written into an exported file.

    Args:
        card: Card of the model.
        record: Evaluation of the model, if there is one.

    Returns:
        A JSON object; ``"scores"`` is ``None`` without a record.

    Example:
        >>> score_card({"name": "afa", "classes": ["cat", "dog"]}, None)["classes"]
        ['cat', 'dog']
    """
    return {
        "format": FORMAT,
        "name": card.get("name", "model"),
        "classes": card.get("classes", []),
        "data": card.get("data"),
        "training": {"seed": card.get("seed"), "commit": card.get("commit")},
        "scores": None if record is None else scores(record),
    }


def scores(record: Record) -> Record:
    """Part of a record that describes how good the model is, and how that was measured."""
    checks = checks_of(record)
    return {
        "data": record["data"],
        "part": record.get("part", "test"),
        "images": record["images"],
        "images_sha256": record.get("images_sha256"),
        "norm": record["norm"],
        "epsilons": record["epsilons"],
        "epsilons_written": record["epsilons_written"],
        "accuracy": record["headline"]["accuracy"],
        "interval": record["headline"]["interval"],
        "attacks": {s["name"]: [a["name"] for a in s["attacks"]] for s in record["suites"]},
        "self_checks": {
            **{v: sum(check["verdict"] == v for check in checks) for v in VERDICTS},
            "open": [f"{check.verdict}: {check.name}" for check in open_checks(record)],
        },
        "marks": [mark["name"] for mark in marks_of(record)],
        "warning": warning_of(record),
        "w1": _weights(record),
        "seed": record.get("seed"),
        "commit": record.get("environment", {}).get("commit"),
    }


def _weights(record: Record) -> list[dict[str, Any]] | None:
    """Mean and deviation of AFA's W1 at each strength, attacked through the generator."""
    if "fusing_weight" not in record:
        return None
    curve = record["fusing_weight"]["through_generator"]
    return [{"mean": point["mean"], "std": point["std"]} for point in curve]


def _completeness(record: Record) -> tuple[bool, bool, int, int, int]:
    attacked = record["epsilons"][-1] > 0
    gradients = not black_box_only(record)
    return attacked, gradients, record["images"], attack_count(record), len(record["epsilons"])
