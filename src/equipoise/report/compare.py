"""Models compared image by image: difference, interval for paired outcomes, verdict."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, Literal

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from equipoise.report.table import Record, check_comparable

Verdict = Literal["better", "worse", "not told apart"]
TRADE_OFF = "(clean+strongest)/2"
NONE = "–"
_MEASURED = {"broken_at", "images_attacked", "forward_passes", "backward_passes", "seconds"}
_OF_A_KIND = {"adaptive", "gate"}
_STYLES: dict[Verdict, str] = {"better": "green", "worse": "red", "not told apart": "dim"}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far a model is from the first one at one strength. Everything is a fraction.

    Args:
        at: ``"clean"``, a strength such as ``"ε 8/255"``, or ``TRADE_OFF``.
        accuracy: Of the model, mean over the seeds compared.
        first: Of the first model, likewise.
        interval: 95 % interval of the difference, over images; see ``paired_interval``.
        by_seed: The difference of each pair of one seed.
        p_values: Exact McNemar p-value of each pair; empty for ``TRADE_OFF``, whose outcomes are
            not yes or no.
    """

    at: str
    accuracy: float
    first: float
    interval: tuple[float, float]
    by_seed: tuple[float, ...]
    p_values: tuple[float, ...]

    @property
    def difference(self) -> float:
        """The model's accuracy less the first one's, mean over seeds, in [-1, 1]."""
        return mean(self.by_seed)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the difference over seeds; ``None`` for a single pair."""
        return stdev(self.by_seed) if len(self.by_seed) > 1 else None

    @property
    def agreeing(self) -> int:
        """How many seeds' differences have the sign of their mean."""
        return sum(value * self.difference > 0 for value in self.by_seed)

    @property
    def verdict(self) -> Verdict:
        """Whether the interval lies above 0, below it, or holds it."""
        low, high = self.interval
        return "better" if low > 0 else "worse" if high < 0 else "not told apart"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One model against the first.

    Args:
        model: Its name.
        first: The first one's name.
        seeds: Training seeds compared, as pairs of the model's and the first one's. They are equal,
            except where a single record of each was given.
        left_out: Training seeds that only one of the two has.
        rows: Clean, each strength, ``TRADE_OFF``.
    """

    model: str
    first: str
    seeds: tuple[tuple[int | None, int | None], ...]
    left_out: tuple[int | None, ...]
    rows: tuple[Difference, ...]


def comparison(records: Sequence[Record]) -> list[Comparison]:
    """Pair every model with that of the first record, image by image.

    Several records of one model are its training seeds. They are paired with the first model's
    records of the same seeds; an image's difference is then its mean over seeds, so that images,
    which the seeds share, are counted once.

    Args:
        records: Evaluations of at least two models on the same images at the same strengths.

    Returns:
        One comparison for each further model, in the order in which they first appear.

    Raises:
        ValueError: If there are not two models, records differ in one of ``MUST_AGREE``, a model
            has two of one seed, or two models share no seed.
    """
    check_comparable(records, "comparison")
    by_model: dict[str, dict[int | None, Record]] = {}
    for record in records:
        group = by_model.setdefault(record["model"], {})
        seed = record.get("training_seed")
        if seed in group:
            raise ValueError(
                f"a comparison takes one record of a model and training seed, got two of "
                f"{record['model']} with seed {seed}; leave one out."
            )
        group[seed] = record
    first, *others = by_model
    if not others:
        raise ValueError(
            f"a comparison needs records of two models or more, got only {first}; "
            "name a record of another model as well."
        )
    return [_compare(by_model[first], by_model[other]) for other in others]


def broken_at(record: Record) -> list[int]:
    """Per image, the lowest strength at which anything broke it.

    Returns:
        Indices into ``"epsilons"``; 0 is wrong when clean, -1 is never. Older records have only
        those of each suite, from which they are put together.

    Raises:
        ValueError: If there is not one for each image.
    """
    found: list[int] | None = record.get("broken_at")
    if found is None:
        if not all("broken_at" in suite for suite in record["suites"]):
            raise ValueError(
                f"the record of {record['model']} says of no image when it was broken; evaluate "
                "the model again."
            )
        columns = zip(*(suite["broken_at"] for suite in record["suites"]), strict=True)
        found = [min((at for at in column if at >= 0), default=-1) for column in columns]
    if len(found) != record["images"]:
        raise ValueError(
            f"broken_at must hold a number for each image, got {len(found)} for "
            f"{record['images']} images of {record['model']}; evaluate the model again."
        )
    return found


def paired_interval(differences: Sequence[float], z: float = 1.96) -> tuple[float, float]:
    """Interval of the mean of paired differences: Wald's, after adding half of each extreme table.

    For outcomes of yes or no, differences are -1, 0 and 1, and this is exactly the interval of
    Agresti and Min, who add 1/2 to each cell of the 2x2 table: two images more, whose differences
    add 0 to the sum and 1 to the sum of squares. Differences between those (means over seeds, the
    mean of clean and strongest) get the same two images. It covers the draw of the images.

    Args:
        differences: One an image, in [-1, 1].
        z: Normal quantile; 1.96 for 95 %.

    Returns:
        Lower and upper end, in [-1, 1].

    Raises:
        ValueError: If there is no difference, or one is out of range.

    Source:
        Agresti and Min 2005, "Simple improved confidence intervals for comparing matched
        proportions", Statistics in Medicine 24, "Wald+2". For differences between -1, 0 and 1 it
        is our extension; a test simulates its coverage.
    """
    if not differences or not all(-1 <= value <= 1 for value in differences):
        raise ValueError("differences must be one or more numbers in [-1, 1], one for each image.")
    count = len(differences) + 2
    total = math.fsum(differences)
    squares = math.fsum(value * value for value in differences) + 1
    centre = total / count
    half = z * math.sqrt(squares - total * total / count) / count
    return max(-1.0, centre - half), min(1.0, centre + half)


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p-value that wins and losses are equally likely.

    Args:
        wins: Images that only the one model has right.
        losses: Images that only the other has right.

    Returns:
        Twice the smaller tail of Binomial(wins + losses, 1/2), at most 1; 1 if there are none.

    Source:
        McNemar 1947, "Note on the sampling error of the difference between correlated proportions
        or percentages", Psychometrika 12; the exact form is the sign test.
    """
    if min(wins, losses) < 0:
        raise ValueError(f"wins and losses must be 0 or more, got {wins} and {losses}.")
    count = wins + losses
    tail = ways = 1
    for hits in range(min(wins, losses)):
        ways = ways * (count - hits) // (hits + 1)  # of choosing hits + 1 among count
        tail += ways
    return min(1.0, 2 * tail / 2**count)


def rich_comparison(records: Sequence[Record], title: str = "Compared image by image") -> Group:
    """The comparison for a terminal: one table for each further model.

    Args:
        records: As for ``comparison``.
        title: Printed above.

    Returns:
        Tables, and what their numbers are.
    """
    found, parts = comparison(records), list[Table | Text]([Text(title, style="italic")])
    for each in found:
        parts.append(Text.assemble("\n", (each.model, "bold"), f" against {_first(each)}"))
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
        for name in _header(each):
            words = name in ("accuracy", "verdict")
            table.add_column(name, justify="left" if words else "right", no_wrap=True)
        for row in each.rows:
            table.add_row(*_cells(row)[:-1], Text(row.verdict, style=_STYLES[row.verdict]))
        parts.append(table)
    return Group(*parts, Text("\n" + _caption(records, found), style="dim italic"))


def markdown_comparison(records: Sequence[Record]) -> str:
    """The comparison as Markdown: one table for each further model, the caption under the last."""
    found, lines = comparison(records), []
    for each in found:
        header = _header(each)
        lines += [f"**{each.model}** against {_first(each)}", "", f"| {' | '.join(header)} |"]
        lines += ["|---|" + "---:|" * (len(header) - 2) + "---|"]
        lines += [*(f"| {' | '.join(_cells(row))} |" for row in each.rows), ""]
    return "\n".join([*lines, _caption(records, found)]) + "\n"


def _compare(first: dict[int | None, Record], other: dict[int | None, Record]) -> Comparison:
    seeds: list[tuple[int | None, int | None]] = [(seed, seed) for seed in other if seed in first]
    if not seeds and len(first) == len(other) == 1:
        seeds = [(next(iter(other)), next(iter(first)))]
    names = [next(iter(group.values()))["model"] for group in (first, other)]
    if not seeds:
        raise ValueError(
            f"models of several seeds must have one in common: {names[0]} has {_list(first)}, "
            f"{names[1]} has {_list(other)}; train one of them with a seed of the other."
        )
    pairs = [(broken_at(other[mine]), broken_at(first[its])) for mine, its in seeds]
    written = next(iter(first.values()))["epsilons_written"]
    rows = [
        _difference(
            "clean" if level == 0 else f"ε {text}",
            [(_right(mine, level), _right(its, level)) for mine, its in pairs],
        )
        for level, text in enumerate(written)
    ]
    last = len(written) - 1
    used = {seed for pair in seeds for seed in pair}
    both = [(_trade_off(mine, last), _trade_off(its, last)) for mine, its in pairs]
    return Comparison(
        model=names[1],
        first=names[0],
        seeds=tuple(seeds),
        left_out=tuple(seed for seed in (*first, *other) if seed not in used),
        rows=(*rows, _difference(TRADE_OFF, both)),
    )


def _caption(records: Sequence[Record], found: list[Comparison]) -> str:
    """What the numbers are, what the interval covers, and what it does not."""
    first = records[0]
    pooled = {len(each.seeds) > 1 for each in found}
    text = (
        f"{first['data']}, {first['images']} {first.get('part', 'test')} images, {first['norm']}; "
        "each image's worst case, in %. The difference is this less first, in points. Its 95 % "
        "interval (Agresti and Min 2005, outcomes paired by image) covers the draw of the images, "
        "for these trained models; it does not cover training them again."
    )
    if True in pooled:
        text += (
            " Means over seeds; sd: of the difference over seeds, which is what training again "
            "changes; agree: seeds whose difference has the mean's sign."
        )
    if False in pooled:
        text += " p: exact McNemar, which is more cautious than the interval."
    text += ' "Not told apart": the interval holds 0. No allowance is made for the count of rows.'
    if first.get("images_sha256") is None:
        text += " Which images they are of, these records do not say: taken to be the same."
    names = _differently_attacked(records)
    if names:
        text += f" Caution, attacked otherwise than the first: {', '.join(names)}."
    return text


def _difference(at: str, pairs: list[tuple[list[float], list[float]]]) -> Difference:
    by_seed = [[a - b for a, b in zip(mine, its, strict=True)] for mine, its in pairs]
    return Difference(
        at=at,
        accuracy=mean(math.fsum(mine) / len(mine) for mine, _ in pairs),
        first=mean(math.fsum(its) / len(its) for _, its in pairs),
        interval=paired_interval([math.fsum(x) / len(x) for x in zip(*by_seed, strict=True)]),
        by_seed=tuple(math.fsum(values) / len(values) for values in by_seed),
        p_values=tuple(mcnemar(x.count(1), x.count(-1)) for x in by_seed if at != TRADE_OFF),
    )


def _right(at: list[int], level: int) -> list[float]:
    return [float(index < 0 or index > level) for index in at]


def _trade_off(at: list[int], last: int) -> list[float]:
    return [(a + b) / 2 for a, b in zip(_right(at, 0), _right(at, last), strict=True)]


def _header(found: Comparison) -> list[str]:
    unsure = ["sd", "agree"] if len(found.seeds) > 1 else ["p"]
    return ["accuracy", "this", "first", "diff", "95 % interval", *unsure, "verdict"]


def _cells(row: Difference) -> list[str]:
    if row.spread is not None:
        unsure = [f"{100 * row.spread:.1f}", f"{row.agreeing}/{len(row.by_seed)}"]
    else:
        unsure = [_p(row.p_values[0]) if row.p_values else NONE]
    accuracies = [f"{100 * value:.1f}" for value in (row.accuracy, row.first)]
    interval = " to ".join(map(_points, row.interval))
    return [row.at, *accuracies, _points(row.difference), interval, *unsure, row.verdict]


def _points(fraction: float) -> str:
    return f"{round(100 * fraction, 1) + 0.0:+.1f}"  # + 0.0 turns -0.0 into 0.0


def _p(value: float) -> str:
    return "<.0001" if value < 0.0001 else f"{value:.4f}"


def _first(found: Comparison) -> str:
    """The first model's name and which training seeds were compared, where that needs saying."""
    text, (mine, its) = found.first, found.seeds[0]
    if mine != its:
        text += f", training seeds {mine} and {its}"
    elif len(found.seeds) > 1 or found.left_out:
        text += f", training seeds {_list(seed for seed, _ in found.seeds)}"
    if found.left_out:
        text += f" (without {_list(found.left_out)}, not in both)"
    return text


def _list(seeds: Iterable[int | None]) -> str:
    return ", ".join(map(str, seeds))


def _differently_attacked(records: Sequence[Record]) -> list[str]:
    """Models whose attacks, or their settings, are not those of the first record."""
    first, found = _settings(records[0]), {}
    for record in records:
        own = _settings(record)
        for suite, name in {*first, *own}:
            one, other = first.get((suite, name)), own.get((suite, name))
            # Suites made for one kind of model need not be in both.
            if one != other and ((one and other) or suite not in _OF_A_KIND):
                found[record["model"]] = True
    return list(found)


def _settings(record: Record) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (suite["name"], attack["name"]): {k: v for k, v in attack.items() if k not in _MEASURED}
        for suite in record["suites"]
        for attack in suite["attacks"]
    }
