"""What an evaluation says of a model, small enough to travel with it."""

from collections.abc import Sequence
from typing import Any

from equipoise.report.self_checks import VERDICTS, open_checks
from equipoise.report.table import Record, attack_count

FORMAT = 1


def of_model(records: Sequence[Record], card: Record, weights_sha256: str) -> list[Record]:
    """Those records that are of these very weights, on test images.

    Args:
        records: Any number of them.
        card: The model's card.
        weights_sha256: Hash of its weights; records from before it was written go by model name and
            training seed alone.

    Returns:
        The records that fit, in their order.
    """
    return [
        record
        for record in records
        if is_named(record["model"], str(card.get("name", record["model"])))
        and record.get("part", "test") == "test"
        and record.get("training_seed") == card.get("seed")
        and record.get("weights_sha256", weights_sha256) == weights_sha256
    ]


def is_named(model: str, name: str) -> bool:
    """Whether a record's model is the one of a card's name, at a preference or without one."""
    return model == name or bool(preference_in(model, name))


def preference_in(model: str, name: str) -> str:
    """The preference that a record's model has behind the model's own name, which may hold an ``@``
    itself; empty where there is none."""
    return model[len(name) + 1 :] if model.startswith(f"{name}@") else ""


def of_each_threat(records: Sequence[Record]) -> list[Record]:
    """One record for each model name, data and norm: the fullest, and of equals the last.

    Returns:
        Records, in the order in which their threats first appear. Fuller is under attack at all,
        then on more images, then with more attacks, then at more strengths.
    """
    chosen: dict[tuple[str, ...], Record] = {}
    for record in records:
        key = (record["model"], record["data"], record.get("data_digest", ""), record["norm"])
        if key not in chosen or _fullness(record) >= _fullness(chosen[key]):
            chosen[key] = record
    return list(chosen.values())


def score_card(card: Record, record: Record | None) -> Record:
    """Name, classes and scores of a model, as they are written into an exported file.

    Args:
        card: The model's card.
        record: Its evaluation, if there is one.

    Returns:
        A JSON object; ``"scores"`` is ``None`` without a record.
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
    """The part of a record that says how good the model is, and how that was found out."""
    checks = record.get("self_checks") or []
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


def _fullness(record: Record) -> tuple[bool, int, int, int]:
    attacked = record["epsilons"][-1] > 0
    return attacked, record["images"], attack_count(record), len(record["epsilons"])
