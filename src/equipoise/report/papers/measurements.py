"""Compute the numbers of a paper's table from records."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from equipoise.report.compare import broken_at
from equipoise.report.papers.entry import WORST, Column, Reading
from equipoise.report.record import Record


@dataclass(frozen=True, kw_only=True)
class Result:
    """Measurements of one trained model.

    Args:
        recipe: Its recipe as JSON.
        record: Its evaluation.
        transfer: Its evaluation against images that were attacked on the surrogate.
        ratios: Its evaluation at each ratio of the adaptive attack.
        multiply_adds: Multiply-adds for one image.
    """

    recipe: Mapping[str, Any]
    record: Record
    transfer: Record | None = None
    ratios: Record | None = None
    multiply_adds: int | None = None


Results = Mapping[str, Sequence[Result]]
"""Results by recipe, one for each seed."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """A measured number.

    Args:
        mean: Mean over seeds.
        spread: Standard deviation over seeds; ``None`` for a single one.
        seeds: Number of seeds.
    """

    mean: float
    spread: float | None
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Values of a figure.

    Args:
        measured: Results of each model by label, one for each seed, in the figure's order.
        published: Published values of each model by label, in percent.
        published_as: Title of the panel with published values.
        measured_as: Title of the panel with measured values.
        data: Data computed from the models beyond their records, one item for each seed.
    """

    measured: Mapping[str, Sequence[Result]]
    published: Mapping[str, Mapping[str, float]]
    published_as: str
    measured_as: str
    data: Sequence[Any] = ()


def accuracies(record: Record, under: str) -> list[float] | None:
    """Accuracy at each strength; an image broken at one strength counts as broken above it.

    Args:
        record: An evaluation.
        under: ``WORST``, a suite, or an attack of an independent suite, whose attacks each ran on
            every image.

    Returns:
        Fractions, or ``None`` if the record has no such attack.

    Example:
        >>> suite = {"name": "paper", "independent": True, "accuracy": [0.75, 0.5],
        ...          "attacks": [{"name": "fgsm", "broken_at": [0, 1, -1, -1]}]}
        >>> record = {"model": "afa", "images": 4, "epsilons": [0.0, 0.1],
        ...           "broken_at": [0, 1, 1, -1], "suites": [suite]}
        >>> accuracies(record, "fgsm")
        [0.75, 0.5]
    """
    if under == WORST:
        return list(record["headline"]["accuracy"])
    for suite in record["suites"]:
        if suite["name"] == under:
            return list(suite["accuracy"])
        for attack in suite["attacks"] if suite.get("independent", False) else ():
            if attack["name"] == under:
                pairs = list(zip(broken_at(record), attack["broken_at"], strict=True))
                return [
                    sum(worst != 0 and not 0 <= alone <= level for worst, alone in pairs)
                    / len(pairs)
                    for level in range(len(record["epsilons"]))
                ]
    return None


def measure(results: Sequence[Result], column: Column, reading: Reading) -> Number | None:
    """Compute one cell of a table.

    Args:
        results: Results of a model, one for each seed.
        column: Column of the cell.
        reading: Names the attack where the column does not.

    Returns:
        The number, accuracies in percent; ``None`` if a seed was not measured.
    """
    under = column.under or reading.under
    value = _printed_value if reading.as_printed else _value
    values = [value(result, column, under) for result in results]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    spread = stdev(known) if len(known) > 1 else None
    return Number(mean=mean(known), spread=spread, seeds=len(known))


def _value(result: Result, column: Column, under: str) -> float | None:
    if under in _QUANTITIES:
        return _QUANTITIES[under](result)
    record = result.transfer if under == "transfer" else result.record
    shares = accuracies(record, under) if record is not None else None
    if shares is None:
        return None
    return 100 * (mean(shares) if column.at is None else shares[column.at])


def _printed_value(result: Result, column: Column, under: str) -> float | None:
    """The number that the papers' tables print, where it differs from ours."""
    if under == "adaptive":
        return worst_ratio(result.ratios)
    if under in ("transfer", "trade-off") or (under == WORST and column.at != 0):
        return None  # the worst case over several attacks, which no table prints
    suites = [suite for suite in result.record["suites"] if suite.get("independent", False)]
    if any(attack["name"] == under for suite in suites for attack in suite["attacks"]):
        return accuracy_alone(result.record, under)
    return _value(result, column, under)


def accuracy_alone(record: Record, attack: str) -> float | None:
    """Accuracy under one attack at the strongest strength alone, as the papers print it.

    Args:
        record: An evaluation.
        attack: Name of an attack of an independent suite.

    Returns:
        Percent; ``None`` if the record has no such attack, or is older than the field ``alone``.

    Source:
        AFA Table 3, columns PGD, FGSM and C&W at 8/255.

    Example:
        >>> suite = {"name": "paper", "independent": True,
        ...          "attacks": [{"name": "fgsm", "alone": 0.25}, {"name": "pgd-20"}]}
        >>> [accuracy_alone({"suites": [suite]}, name) for name in ("fgsm", "pgd-20")]
        [25.0, None]
    """
    for suite in record["suites"]:
        for found in suite["attacks"] if suite.get("independent", False) else ():
            if found["name"] == attack and "alone" in found:
                return 100.0 * float(found["alone"])
    return None


def worst_ratio(record: Record | None) -> float | None:
    """Accuracy under the one ratio of the adaptive attack that is worst for the whole set.

    Args:
        record: An evaluation with the suite ``ratios``, or ``None``.

    Returns:
        Percent, over both targets of the seven ratios; ``None`` without such an evaluation.

    Source:
        AFA Sec. 5.2, "report the best attacking results (worst adversarial accuracies)".

    Example:
        >>> attacks = [{"name": "gate-to-clean-10", "alone": 0.5},
        ...            {"name": "gate-to-robust-0.1", "alone": 0.25}]
        >>> worst_ratio({"suites": [{"name": "ratios", "independent": True, "attacks": attacks}]})
        25.0
    """
    suites = [] if record is None else [s for s in record["suites"] if s["name"] == "ratios"]
    shares = [attack["alone"] for suite in suites for attack in suite["attacks"]]
    return 100.0 * float(min(shares)) if shares else None


_QUANTITIES: Mapping[str, Callable[[Result], float | None]] = {
    "parameters": lambda result: result.record["parameters"] / 1e6,
    "multiply-adds": lambda result: (
        None if result.multiply_adds is None else result.multiply_adds / 1e9
    ),
    "trade-off": lambda result: 100 * result.record["headline"]["clean_and_strongest"],
}
