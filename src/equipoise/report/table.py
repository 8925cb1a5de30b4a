"""The headline table: one row for each model, with clean accuracy, each strength and trade-off."""

import re
from collections import defaultdict
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from equipoise.evaluation.statistics import wilson_interval
from equipoise.report.marks import (
    APART,
    apart_last,
    apart_models,
    black_box_only,
    marked_name,
    marks_caption,
)
from equipoise.report.record import Record, attack_count
from equipoise.report.reliability import GROUPS, can_be_best, group_of
from equipoise.runtime.errors import InvalidInput

WIDTH = 80
"""Columns of the narrowest terminal that every table fits into."""
NAME_WIDTH = 14
"""Columns that the names of models get in any case; a longer name is folded."""
NONE = "–"
"""Cell without a value."""
MUST_AGREE = ("data", "part", "norm", "epsilons", "images", "images_sha256")
"""Fields that records of one table must agree in."""


def headline_rows(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the headline table, in percent.

    Args:
        records: Evaluations of models at the same strengths. Several records of one model are its
            training seeds; their row holds the mean and, in parentheses, the standard deviation.

    Returns:
        Column names, and one list of cells for each model in the order in which they first appear,
        those that are black box only last. The first cell is the model's name, without its marks.

    Raises:
        ValueError: If there is no record, or records differ in one of ``MUST_AGREE``.
    """
    check_comparable(records, "table")
    first = records[0]
    by_model: dict[str, list[Record]] = defaultdict(list)
    for record in apart_last(fullest(records)):
        by_model[record["model"]].append(record)
    strengths = [f"ε = {text}" for text in first["epsilons_written"][1:]]
    alone = f"{first['suites'][0]['name']} alone, {first['epsilons_written'][-1]}"
    header = ["model", "clean", *strengths, "average", "(clean + strongest)/2", alone]
    body = []
    for model, seeds in by_model.items():
        columns = [
            *zip(*(record["headline"]["accuracy"] for record in seeds), strict=True),
            [record["headline"]["average"] for record in seeds],
            [record["headline"]["clean_and_strongest"] for record in seeds],
            [record["suites"][0]["accuracy"][-1] for record in seeds],
        ]
        body.append([model, *(_cell(list(column)) for column in columns)])
    return header, body


def fullest(records: Sequence[Record]) -> list[Record]:
    """Keep the evaluation with the most attacks of each trained model.

    One that used the model's gradients is preferred to one that is black box only.

    Args:
        records: Evaluations of any models.

    Returns:
        One record for each model and training seed, in order.

    Raises:
        ValueError: If two models have the same name and training seed.
    """
    chosen: dict[tuple[str, Any], Record] = {}
    weights: dict[tuple[str, Any], str] = {}
    for number, record in enumerate(records):
        seed = record.get("training_seed")
        key = (record["model"], number if seed is None else seed)
        digest = record.get("weights_sha256")
        if digest is not None and weights.setdefault(key, digest) != digest:
            raise InvalidInput(
                f"a model name and training seed must stand for one set of weights, got two for "
                f"{record['model']}, seed {seed}; leave one out, or train it under another --name."
            )
        if key not in chosen or _completeness(record) > _completeness(chosen[key]):
            chosen[key] = record
    return list(chosen.values())


def _completeness(record: Record) -> tuple[bool, int]:
    return not black_box_only(record), attack_count(record)


def strength_ticks(record: Record) -> tuple[list[str], str]:
    """Tick labels for an axis of strengths, and the unit to add to its title.

    Returns:
        Strengths without their denominator and ``", in 255ths"`` if every strength is a multiple
        of 1/255, which saves space; otherwise strengths as they are written and an empty string.

    Example:
        >>> strength_ticks({"epsilons_written": ["0", "4/255", "8/255"]})
        (['0', '4', '8'], ', in 255ths')
    """
    written, denominator = record["epsilons_written"], "/255"
    if all(text == "0" or text.endswith(denominator) for text in written):
        return [text.removesuffix(denominator) for text in written], ", in 255ths"
    return written, ""


def check_comparable(records: Sequence[Record], kind: str) -> None:
    """Reject records that cannot be shown in one table.

    Args:
        records: Evaluations.
        kind: Kind of table, for the message.

    Raises:
        ValueError: If there is no record, or two differ in one of ``MUST_AGREE``.
    """
    if not records:
        raise InvalidInput(f"a {kind} needs at least one record, got none; name record files.")
    first = records[0]
    for record in records:
        for key in MUST_AGREE:
            # The first records did not name their part; all were of test images.
            default = "test" if key == "part" else None
            expected, actual = first.get(key, default), record.get(key, default)
            if expected != actual:
                remedy = f"evaluate both in the same way, or make one {kind} for each"
                if first["model"] == record["model"]:
                    remedy = "it was evaluated in several ways: name one record file, not a folder"
                raise InvalidInput(
                    f"records of one {kind} must agree in {key}: {first['model']} has {expected}, "
                    f"{record['model']} has {actual}; {remedy}."
                )


def rich_table(records: Sequence[Record], title: str) -> Group:
    """Headline table for the terminal, split where its strengths do not fit into 80 columns.

    Args:
        records: Evaluations of models at the same strengths, as for ``markdown_table``.
        title: Title above the table.

    Returns:
        As many tables of at most 80 columns as are needed, each with the models' names, and a
        caption. The best average is bold, if that model can be the best (see
        ``reliability.RANKING_RULE``). Models that are black box only are below the others, under a
        heading.

    Raises:
        ValueError: If there is no record, or records differ in one of ``MUST_AGREE``.
    """
    header, body = headline_rows(records)
    # Only the trade-off keeps its deviation here, so that the table fits into 80 columns.
    trade_off = len(header) - 2
    body = [
        [cell if n in (0, trade_off) else cell.split(" (")[0] for n, cell in enumerate(row)]
        for row in body
    ]
    heads = [_short_head(name) for name in header]
    if len(_split_columns(_widths(heads, body)[1:])) > 1:
        heads = [head.replace("ε ", "ε\n") for head in heads]
    widths = _widths(heads, body)
    shown, best = fullest(records), best_model(records)
    apart = apart_models(shown)
    first_apart = next((number for number, row in enumerate(body) if row[0] in apart), None)
    parts: list[Table | Text] = []
    for columns in _split_columns(widths[1:]):
        table = Table(
            title=None if parts else title,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        left = WIDTH - sum(widths[number] for number in columns)
        table.add_column(heads[0], overflow="fold")
        for number in columns:
            table.add_column(heads[number], justify="right", no_wrap=True)
        for number, row in enumerate(body):
            if number == first_apart:
                table.add_section()
                table.add_row(Text(APART, style="italic"))
            name = Text(wrap_name(marked_name(row[0], shown), left))
            style = "bold" if row[0] == best else None
            table.add_row(name, *(row[column] for column in columns), style=style)
        parts += [table, Text()]
    return Group(*parts, Text(caption(records), style="table.caption"))


def _widths(heads: Sequence[str], body: Sequence[Sequence[str]]) -> list[int]:
    """Width of each column, with the gap behind it."""
    return [
        2 + max(len(text) for text in [*(row[number] for row in body), *head.split("\n")])
        for number, head in enumerate(heads)
    ]


def _split_columns(widths: Sequence[int]) -> list[list[int]]:
    """Columns of each table, from 1, so that the models' names keep ``NAME_WIDTH`` characters."""
    tables: list[list[int]] = [[]]
    left = WIDTH - NAME_WIDTH
    for number, width in enumerate(widths, 1):
        if tables[-1] and width > left:
            tables.append([])
            left = WIDTH - NAME_WIDTH
        tables[-1].append(number)
        left -= width
    return tables


def _short_head(name: str) -> str:
    """A column's name in short lines, so that the table fits into 80 columns."""
    name = name.replace(" = ", " ").replace("(clean + strongest)/2", "(clean +\nstrongest)\n/2")
    return name.replace(" alone, ", "\nalone\n").replace("average", "avg")


def wrap_name(name: str, width: int, after: str = "_") -> str:
    """Break a name into lines of about ``width`` characters.

    Args:
        name: Name of a model or an attack.
        width: Characters in a line; a piece without the break character may be longer.
        after: Character after which a line may end.

    Returns:
        The name with line breaks in it.

    Example:
        >>> wrap_name("afa_cifar10_paper", 12)
        'afa_cifar10_\\npaper'
    """
    lines = [""]
    for piece in re.findall(rf"[^{after}]*{after}|[^{after}]+", name):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def markdown_table(records: Sequence[Record], *, short: bool = False) -> str:
    """Headline table as Markdown, with its caption.

    Args:
        records: Evaluations of models at the same strengths. Several records of one model are its
            training seeds; their row holds the mean and, in parentheses, the standard deviation.
        short: Leave out the accuracy under the first suite alone.

    Returns:
        Markdown text; accuracies in percent.

    Raises:
        ValueError: If there is no record, or records differ in one of ``MUST_AGREE``.

    Example:
        >>> record = {
        ...     "model": "afa", "data": "digits", "norm": "Linf", "images": 450,
        ...     "epsilons": [0.0, 0.1], "epsilons_written": ["0", "0.1"],
        ...     "headline": {"accuracy": [0.9, 0.5], "average": 0.7, "clean_and_strongest": 0.7},
        ...     "suites": [{"name": "quick", "accuracy": [0.9, 0.6], "attacks": [{"name": "a"}]}],
        ... }
        >>> print(markdown_table([record]).split("\\n\\n")[0])
        | model | clean | ε = 0.1 | average | (clean + strongest)/2 | quick alone, 0.1 |
        |---|---:|---:|---:|---:|---:|
        | afa | 90.0 | 50.0 | 70.0 | 70.0 | 60.0 |
    """
    header, body = headline_rows(records)
    if short:
        header, *body = [row[:-1] for row in (header, *body)]
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    shown = fullest(records)
    apart = apart_models(shown)
    for heading, rows in (
        (None, [row for row in body if row[0] not in apart]),
        (f"*{APART}*", [row for row in body if row[0] in apart]),
    ):
        if heading and rows:
            lines.append(f"| {heading} |" + " |" * (len(header) - 1))
        lines += [f"| {' | '.join([marked_name(row[0], shown), *row[1:]])} |" for row in rows]
    return "\n".join([*lines, "", caption(records)]) + "\n"


def caption(records: Sequence[Record]) -> str:
    """Caption of a headline table: data, images, threat, seeds, attacks and an interval.

    Args:
        records: Evaluations of models at the same strengths.
    """
    records = apart_last(fullest(records))
    first = records[0]
    counts = sorted({attack_count(record) for record in records})
    attacks = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    robust = [r["headline"]["accuracy"][-1] for r in records if r["model"] == first["model"]]
    low, high = wilson_interval(round(mean(robust) * first["images"]), first["images"])
    return (
        f"Accuracy in % on {first['images']} {first.get('part', 'test')} images of "
        f"{first['data']} under {first['norm']} attacks.{seeds_sentence(records)} "
        f"An image counts as correct at a strength only if none of the model's {attacks} attacks "
        "broke it at that strength or below. 95 % interval of the first row at the strongest "
        f"attack: {100 * low:.1f} to {100 * high:.1f}.{marks_caption(records)}"
    )


def seeds_sentence(records: Sequence[Record]) -> str:
    """Sentence of a caption with the number of seeds; empty where every model has one."""
    counts = {sum(r["model"] == record["model"] for r in records) for record in records}
    if max(counts) == 1:
        return ""
    up_to = "up to " if len(counts) > 1 else ""
    return f" Mean over {up_to}{max(counts)} seeds (standard deviation)."


def ranked(records: Sequence[Record]) -> list[Record]:
    """Sort records by their models' average accuracy over all strengths, the best first.

    Args:
        records: Evaluations of models at the same strengths.

    Returns:
        The same records in another order: ``reliability.RANKING_RULE``.
    """
    averages, shown = _averages(records), fullest(records)
    groups = {
        model: GROUPS.index(group_of([record for record in shown if record["model"] == model]))
        for model in averages
    }
    return sorted(records, key=lambda record: (groups[record["model"]], -averages[record["model"]]))


def best_model(records: Sequence[Record]) -> str | None:
    """Name of the model to call the best, by the average accuracy over all strengths.

    Args:
        records: Evaluations of models at the same strengths.

    Returns:
        A name; ``None`` if no model can be the best.
    """
    shown, averages = fullest(records), _averages(records)
    able = [
        model
        for model in averages
        if can_be_best([record for record in shown if record["model"] == model])
    ]
    return max(able, key=lambda model: averages[model], default=None)


def _averages(records: Sequence[Record]) -> dict[str, float]:
    by_model: dict[str, list[float]] = defaultdict(list)
    for record in fullest(records):
        by_model[record["model"]].append(record["headline"]["average"])
    return {model: mean(values) for model, values in by_model.items()}


def _cell(values: list[float]) -> str:
    if len(values) == 1:
        return f"{100 * values[0]:.1f}"
    return f"{100 * mean(values):.1f} ({100 * stdev(values):.1f})"
