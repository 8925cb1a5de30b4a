"""Compare models image by image: difference, interval for paired outcomes, verdict."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Literal

from equipoise.report.record import Record
from equipoise.report.table import check_comparable
from equipoise.runtime.errors import InvalidInput

Verdict = Literal["better", "worse", "no significant difference"]
TRADE_OFF = "trade-off"
"""Row of the mean of clean accuracy and accuracy at the strongest strength."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference in accuracy between a model and the baseline at one strength, as fractions.

    Args:
        label: ``"clean"``, a strength such as ``"ε 8/255"``, or ``TRADE_OFF``.
        accuracy: Accuracy of the model, mean over the seeds compared.
        baseline: Accuracy of the baseline, mean over the seeds compared.
        interval: 95 % interval of the difference over images; see ``paired_interval``.
        by_seed: Difference of each pair of seeds.
        p_values: Exact McNemar p-value of each pair of seeds; empty for ``TRADE_OFF``, whose
            outcomes are not binary.
    """

    label: str
    accuracy: float
    baseline: float
    interval: tuple[float, float]
    by_seed: tuple[float, ...]
    p_values: tuple[float, ...]

    @property
    def difference(self) -> float:
        """Accuracy of the model minus that of the baseline, mean over seeds, in [-1, 1]."""
        return mean(self.by_seed)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the difference over seeds; ``None`` for a single pair."""
        return stdev(self.by_seed) if len(self.by_seed) > 1 else None

    @property
    def agreeing(self) -> int:
        """Number of seeds whose difference has the sign of the mean difference."""
        return sum(value * self.difference > 0 for value in self.by_seed)

    @property
    def verdict(self) -> Verdict:
        """``"better"`` if the interval is above 0, ``"worse"`` if it is below 0."""
        low, high = self.interval
        return "better" if low > 0 else "worse" if high < 0 else "no significant difference"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One model compared with the baseline.

    Args:
        model: Name of the model.
        baseline: Name of the baseline.
        seeds: Pairs of training seeds (model, baseline). The two are equal, except where there is
            a single record of each model.
        left_out: Training seeds that only one of the two models has.
        rows: One difference for clean images, one for each strength, one for ``TRADE_OFF``.
    """

    model: str
    baseline: str
    seeds: tuple[tuple[int | None, int | None], ...]
    left_out: tuple[int | None, ...]
    rows: tuple[Difference, ...]


def compare_models(records: Sequence[Record]) -> list[Comparison]:
    """Compare every model with the model of the first record, image by image.

    Several records of one model are its training seeds. They are paired with the baseline's records
    of the same seeds. The difference of an image is its mean over seeds, so an image that all seeds
    share counts once.

    Args:
        records: Evaluations of at least two models on the same images at the same strengths.

    Returns:
        One comparison for each model after the first, in the order in which they first appear.

    Raises:
        ValueError: If there are fewer than two models, records differ in one of ``MUST_AGREE``, a
            model has two records of one seed, or two models share no seed.

    Example:
        >>> shared = {"data": "digits", "norm": "Linf", "images": 4, "images_sha256": "ab",
        ...           "epsilons": [0.0, 0.1], "epsilons_written": ["0", "0.1"], "training_seed": 0}
        >>> records = [shared | {"model": "pgd_at", "broken_at": [0, 1, -1, -1]},
        ...            shared | {"model": "afa", "broken_at": [-1, -1, -1, -1]}]
        >>> (found,) = compare_models(records)
        >>> [(row.label, row.difference, row.verdict) for row in found.rows[:2]]
        [('clean', 0.25, 'no significant difference'), ('ε 0.1', 0.5, 'no significant difference')]
    """
    check_comparable(records, "comparison")
    by_model: dict[str, dict[int | None, Record]] = {}
    for record in records:
        by_seed = by_model.setdefault(record["model"], {})
        seed = record.get("training_seed")
        if seed in by_seed:
            raise InvalidInput(
                f"a comparison takes one record for each model and training seed, got two of "
                f"{record['model']} with seed {seed}; leave one out."
            )
        by_seed[seed] = record
    baseline, *others = by_model
    if not others:
        raise InvalidInput(
            f"a comparison needs records of at least two models, got only {baseline}; "
            "also name a record of another model."
        )
    return [_compare(by_model[baseline], by_model[other]) for other in others]


def broken_at(record: Record) -> list[int]:
    """For each image, the lowest strength at which any attack broke it.

    Returns:
        Indices into ``"epsilons"``: 0 for an image that is misclassified without an attack, -1 for
        one that was never broken. Older records hold this for each suite only; the suites are
        combined.

    Raises:
        ValueError: If the record does not hold one index for each image.

    Example:
        >>> suites = [{"broken_at": [0, 2, -1]}, {"broken_at": [-1, 1, -1]}]
        >>> broken_at({"model": "afa", "images": 3, "suites": suites})
        [0, 1, -1]
    """
    levels: list[int] | None = record.get("broken_at")
    if levels is None:
        if not all("broken_at" in suite for suite in record["suites"]):
            raise InvalidInput(
                f"the record of {record['model']} does not say at which strength each image was "
                "broken; evaluate the model again."
            )
        columns = zip(*(suite["broken_at"] for suite in record["suites"]), strict=True)
        levels = [min((level for level in column if level >= 0), default=-1) for column in columns]
    if len(levels) != record["images"]:
        raise InvalidInput(
            f"broken_at must hold one number for each image, got {len(levels)} for "
            f"{record['images']} images of {record['model']}; evaluate the model again."
        )
    return levels


def paired_interval(differences: Sequence[float], z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of the mean of paired differences.

    The Wald interval after adding two images, one of difference 1 and one of difference -1. For
    binary outcomes, whose differences are -1, 0 and 1, this is exactly the interval of Agresti and
    Min, who add 1/2 to each cell of the 2x2 table. Other differences (means over seeds, the mean of
    clean and strongest) get the same two images. The interval covers the choice of images.

    Args:
        differences: One for each image, in [-1, 1].
        z: Normal quantile; 1.96 for 95 %.

    Returns:
        Lower and upper end, in [-1, 1].

    Raises:
        ValueError: If there is no difference, or one is out of range.

    Source:
        Agresti and Min 2005, "Simple improved confidence intervals for comparing matched
        proportions", Statistics in Medicine 24, "Wald+2". Its use for differences between -1, 0
        and 1 is our extension; a test simulates the coverage.

    Example:
        >>> low, high = paired_interval([1] * 30 + [-1] * 12 + [0] * 408)  # 30 won, 12 lost
        >>> print(f"{low:.4f} to {high:.4f}")
        0.0116 to 0.0680
    """
    if not differences or not all(-1 <= value <= 1 for value in differences):
        raise InvalidInput(
            "differences must be one or more numbers in [-1, 1], one for each image."
        )
    count = len(differences) + 2
    total = math.fsum(differences)
    squares = math.fsum(value * value for value in differences) + 1
    centre = total / count
    half = z * math.sqrt(squares - total * total / count) / count
    return max(-1.0, centre - half), min(1.0, centre + half)


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p-value of McNemar's test, that wins and losses are equally likely.

    Args:
        wins: Number of images that only one model classifies correctly.
        losses: Number of images that only the other model classifies correctly.

    Returns:
        Twice the smaller tail of Binomial(wins + losses, 1/2), at most 1; 1 without wins and
        losses.

    Raises:
        ValueError: If a count is negative.

    Source:
        McNemar 1947, "Note on the sampling error of the difference between correlated proportions
        or percentages", Psychometrika 12; the exact form is the sign test.

    Example:
        >>> mcnemar(6, 0)
        0.03125
    """
    if min(wins, losses) < 0:
        raise InvalidInput(f"wins and losses must be 0 or more, got {wins} and {losses}.")
    count = wins + losses
    tail = ways = 1
    for hits in range(min(wins, losses)):
        ways = ways * (count - hits) // (hits + 1)  # of choosing hits + 1 among count
        tail += ways
    return min(1.0, 2 * tail / 2**count)


def seed_list(seeds: Iterable[int | None]) -> str:
    """Training seeds as text, such as ``"0, 1, 2"``."""
    return ", ".join(map(str, seeds))


def _compare(baseline: dict[int | None, Record], model: dict[int | None, Record]) -> Comparison:
    seeds: list[tuple[int | None, int | None]] = [
        (seed, seed) for seed in model if seed in baseline
    ]
    if not seeds and len(baseline) == len(model) == 1:
        seeds = [(next(iter(model)), next(iter(baseline)))]
    names = [next(iter(records.values()))["model"] for records in (baseline, model)]
    if not seeds:
        raise InvalidInput(
            f"models with several seeds must have one in common: {names[0]} has "
            f"{seed_list(baseline)}, {names[1]} has {seed_list(model)}; train one with a "
            "seed of the other."
        )
    pairs = [(broken_at(model[mine]), broken_at(baseline[its])) for mine, its in seeds]
    written = next(iter(baseline.values()))["epsilons_written"]
    rows = [
        _difference(
            "clean" if level == 0 else f"ε {text}",
            [(_correct(mine, level), _correct(its, level)) for mine, its in pairs],
        )
        for level, text in enumerate(written)
    ]
    last = len(written) - 1
    compared = {seed for pair in seeds for seed in pair}
    trade_offs = [(_trade_off(mine, last), _trade_off(its, last)) for mine, its in pairs]
    return Comparison(
        model=names[1],
        baseline=names[0],
        seeds=tuple(seeds),
        left_out=tuple(seed for seed in (*baseline, *model) if seed not in compared),
        rows=(*rows, _difference(TRADE_OFF, trade_offs)),
    )


def _difference(label: str, pairs: list[tuple[list[float], list[float]]]) -> Difference:
    by_seed = [[a - b for a, b in zip(mine, its, strict=True)] for mine, its in pairs]
    return Difference(
        label=label,
        accuracy=mean(math.fsum(mine) / len(mine) for mine, _ in pairs),
        baseline=mean(math.fsum(its) / len(its) for _, its in pairs),
        interval=paired_interval([math.fsum(x) / len(x) for x in zip(*by_seed, strict=True)]),
        by_seed=tuple(math.fsum(values) / len(values) for values in by_seed),
        p_values=tuple(mcnemar(x.count(1), x.count(-1)) for x in by_seed if label != TRADE_OFF),
    )


def _correct(levels: list[int], level: int) -> list[float]:
    """1 for each image that is correct at a strength, 0 for the others."""
    return [float(broken < 0 or broken > level) for broken in levels]


def _trade_off(levels: list[int], last: int) -> list[float]:
    return [(a + b) / 2 for a, b in zip(_correct(levels, 0), _correct(levels, last), strict=True)]
