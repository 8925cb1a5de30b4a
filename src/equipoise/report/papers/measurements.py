"""Records to the numbers of a table: under one attack or the worst case, over seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from equipoise.report.compare import broken_at
from equipoise.report.papers.entry import WORST, Column, Reading
from equipoise.report.table import Record


@dataclass(frozen=True, kw_only=True)
class Result:
    """What is known about one trained model.

    Args:
        recipe: Its recipe as JSON.
        record: Its evaluation.
        transfer: Its evaluation against images made on the surrogate.
        multiply_adds: Of one image through it.
    """

    recipe: Mapping[str, Any]
    record: Record
    transfer: Record | None = None
    multiply_adds: int | None = None


Results = Mapping[str, Sequence[Result]]
"""By recipe, one result a seed."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """A measured number.

    Args:
        mean: Over seeds.
        spread: Standard deviation over seeds; ``None`` for a single one.
        seeds: How many.
    """

    mean: float
    spread: float | None
    seeds: int


def accuracies(record: Record, under: str) -> list[float] | None:
    """Accuracy at each strength, carried upwards.

    Args:
        record: An evaluation.
        under: ``WORST``, a suite, or an attack of a suite whose attacks each saw every image.

    Returns:
        Fractions, or ``None`` if the record has no such attack.
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
                    sum(clean != 0 and not 0 <= at <= place for clean, at in pairs) / len(pairs)
                    for place in range(len(record["epsilons"]))
                ]
    return None


def measure(results: Sequence[Result], column: Column, reading: Reading) -> Number | None:
    """One cell.

    Args:
        results: A model's, one a seed.
        column: What is asked.
        reading: How, where the column does not say.

    Returns:
        The number, accuracies in percent; ``None`` where it was not measured.
    """
    values = [_one(result, column, column.under or reading.under) for result in results]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    spread = stdev(known) if len(known) > 1 else None
    return Number(mean=mean(known), spread=spread, seeds=len(known))


def _one(result: Result, column: Column, under: str) -> float | None:
    if under in _QUANTITIES:
        return _QUANTITIES[under](result)
    record = result.transfer if under == "transfer" else result.record
    found = accuracies(record, under) if record is not None else None
    if found is None:
        return None
    return 100 * (mean(found) if column.at is None else found[column.at])


_QUANTITIES: Mapping[str, Callable[[Result], float | None]] = {
    "parameters": lambda result: result.record["parameters"] / 1e6,
    "multiply-adds": lambda result: (
        None if result.multiply_adds is None else result.multiply_adds / 1e9
    ),
    "trade-off": lambda result: 100 * result.record["headline"]["clean_and_strongest"],
}
