"""RobustBench's ``model_info`` entry for a model, from its card and record."""

import math

from equipoise.deployment.model_card import architecture
from equipoise.records.epsilon import format_epsilon
from equipoise.report.marks import marks_of
from equipoise.report.record import Record, attack_count
from equipoise.report.reliability import unreliable_reasons

STRENGTHS = {"Linf": 8 / 255, "L2": 0.5}
"""Strengths of RobustBench's CIFAR leaderboards."""
IMAGES = {"cifar10": 10_000, "cifar100": 10_000}
"""Number of test images that each leaderboard requires."""


def robustbench_entry(document: Record, record: Record) -> tuple[Record, list[str]]:
    """Make the entry, and list what is missing in it.

    Args:
        document: The model folder's ``config.json``.
        record: Evaluation of the model. Clean accuracy and ``reported``, the worst case over all
            attacks, come from it at the leaderboard's strength, or at its own strongest one.

    Returns:
        The entry, with accuracies as strings as in RobustBench, and one sentence for each missing
        or deviating field. Unknown text fields are empty; ``autoattack_acc`` is null unless
        AutoAttack was the first suite, since only then did it run on every image. ``unreliable`` is
        true for any of ``unreliable_reasons``, which a note names.

    Source:
        The files under ``model_info`` of RobustBench (Croce et al. 2021, 2010.09670).
    """
    card, epsilons = document["card"], record["epsilons"]
    required = STRENGTHS.get(record["norm"], epsilons[-1])
    level = _level(epsilons, required)
    worst = record["headline"]["accuracy"][level]
    first = record["suites"][0]
    auto = first["accuracy"][level] if first["name"] == "autoattack" else None
    data = record["data"].removesuffix("-jpeg")
    training = card.get("training", {})
    extra = training["loop"].get("extra") is not None if "loop" in training else None
    notes = _data_notes(record, data)
    if not math.isclose(epsilons[level], required, abs_tol=1e-9):
        notes.append(
            f"eps is {format_epsilon(epsilons[level])}; RobustBench requires "
            f"{format_epsilon(required)} in {record['norm']}."
        )
    if auto is None:
        notes.append("autoattack_acc is null: evaluate with --suite autoattack first.")
    if extra is None:
        notes.append("additional_data is null: the model folder does not specify it.")
    reasons = unreliable_reasons(record)
    if reasons:
        notes.append(f"unreliable is true: {'; '.join(reasons)}.")
    notes.append("link, name, authors and venue are empty: fill in those of your paper.")
    entry = {
        "link": "",
        "name": "",
        "authors": "",
        "additional_data": extra,
        "number_forward_passes": len(document["model"].get("members", [])) or 1,
        "dataset": data,
        "venue": "",
        "architecture": architecture(document["model"]),
        "eps": format_epsilon(epsilons[level]),
        "clean_acc": _percent(record["headline"]["accuracy"][0]),
        "reported": _percent(worst),
        "autoattack_acc": None if auto is None else _percent(auto),
        **({"external": _percent(worst)} if auto is not None and worst < auto else {}),
        "unreliable": bool(reasons),
        "footnote": f"{record['model']}: reported is the worst case over {attack_count(record)} "
        f"attacks of Equipoise on {record['images']} test images of {record['data']}."
        + "".join(f" Mark: {mark['name']}. {mark['meaning']}" for mark in marks_of(record)),
    }
    return entry, notes


def _level(epsilons: list[float], required: float) -> int:
    """Index of a strength, or of the strongest one where it is missing."""
    for level, epsilon in enumerate(epsilons):
        if math.isclose(epsilon, required, abs_tol=1e-9):
            return level
    return len(epsilons) - 1


def _data_notes(record: Record, data: str) -> list[str]:
    notes = []
    if data not in IMAGES:
        notes.append(f"RobustBench has no leaderboard for {data}.")
    elif record["images"] != IMAGES[data]:
        notes.append(
            f"RobustBench requires {IMAGES[data]} test images; the record has {record['images']}."
        )
    if data != record["data"]:
        notes.append(f"the images are {record['data']}, not the original pixels.")
    return notes


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
