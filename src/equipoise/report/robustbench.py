"""A model as an entry of RobustBench's ``model_info``, as far as its record and card can say."""

import math

from equipoise.records.epsilon import format_epsilon
from equipoise.report.model_card import architecture
from equipoise.report.table import Record, attack_count

STRENGTHS = {"Linf": 8 / 255, "L2": 0.5}  # of its CIFAR leaderboards
DATA = {"cifar10": 10_000, "cifar100": 10_000}  # and how many test images they count


def robustbench_entry(document: Record, record: Record) -> tuple[Record, list[str]]:
    """The entry, and what is missing in it.

    Args:
        document: The model folder's ``config.json``.
        record: Its evaluation. Clean accuracy and ``reported``, the worst case over everything
            tried, come from it at the leaderboard's strength, or at its strongest one.

    Returns:
        The entry, with strings as RobustBench has them; what is not known is an empty string, and
        ``autoattack_acc`` is null unless AutoAttack ran first and alone counts. And one sentence
        for each thing that is missing or not as the leaderboard asks.

    Source:
        The files under ``model_info`` of RobustBench (Croce et al. 2021, 2010.09670).
    """
    card, norm = document["card"], record["norm"]
    epsilons = record["epsilons"]
    wanted = STRENGTHS.get(norm, epsilons[-1])
    place = min(range(len(epsilons)), key=lambda k: abs(epsilons[k] - wanted))
    if not math.isclose(epsilons[place], wanted, abs_tol=1e-9):
        place = len(epsilons) - 1
    worst = record["headline"]["accuracy"][place]
    first = record["suites"][0]
    auto = first["accuracy"][place] if first["name"] == "autoattack" else None
    data = record["data"].removesuffix("-jpeg")
    training = card.get("training", {})
    extra = training["loop"].get("extra") is not None if "loop" in training else None
    notes = [
        *_about_data(record, data),
        *(
            []
            if math.isclose(epsilons[place], wanted, abs_tol=1e-9)
            else [f"eps is {format_epsilon(epsilons[place])}; RobustBench asks for "
                  f"{format_epsilon(wanted)} in {norm}."]
        ),
        *(
            ["autoattack_acc is null: evaluate with --suite autoattack first."]
            if auto is None
            else []
        ),
        *(["additional_data is null: the model folder does not say."] if extra is None else []),
        "link, name, authors and venue are empty: they are those of your paper.",
    ]  # fmt: skip
    entry = {
        "link": "",
        "name": "",
        "authors": "",
        "additional_data": extra,
        "number_forward_passes": len(document["model"].get("members", [])) or 1,
        "dataset": data,
        "venue": "",
        "architecture": architecture(document["model"]),
        "eps": format_epsilon(epsilons[place]),
        "clean_acc": _percent(record["headline"]["accuracy"][0]),
        "reported": _percent(worst),
        "autoattack_acc": None if auto is None else _percent(auto),
        **({"external": _percent(worst)} if auto is not None and worst < auto else {}),
        "unreliable": any(c["verdict"] == "fail" for c in record.get("self_checks") or []),
        "footnote": f"{record['model']}: reported is the worst case over {attack_count(record)} "
        f"attacks of Equipoise on {record['images']} test images of {record['data']}.",
    }
    return entry, notes


def _about_data(record: Record, data: str) -> list[str]:
    found = []
    if data not in DATA:
        found.append(f"RobustBench has no leaderboard for {data}.")
    elif record["images"] != DATA[data]:
        found.append(f"RobustBench counts {DATA[data]} test images, this is {record['images']}.")
    if data != record["data"]:
        found.append(f"the images are {record['data']}, not the original pixels.")
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
