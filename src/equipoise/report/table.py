"""The headline table: one row a model, clean, each strength, average and trade-off."""

import re
from collections import defaultdict
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from rich import box
from rich.table import Table

from equipoise.records.statistics import wilson_interval

Record = dict[str, Any]
WIDTH = 80
"""Of a terminal that every table fits into."""
MUST_AGREE = ("data", "part", "norm", "epsilons", "images", "images_sha256")


def rows(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Header and cells, in percent.

    Args:
        records: Of models evaluated at the same strengths; several of one model (its seeds) become
            one row of mean and, in parentheses, standard deviation.

    Returns:
        Column names and one list of cells a model, in the order the models first appear.

    Raises:
        ValueError: If there is no record, or strengths or data sets differ.
    """
    check_comparable(records, "table")
    first = records[0]
    by_model: dict[str, list[Record]] = defaultdict(list)
    for record in fullest(records):
        by_model[record["model"]].append(record)
    names = [f"ε = {text}" for text in first["epsilons_written"][1:]]
    alone = f"{first['suites'][0]['name']} alone, {first['epsilons_written'][-1]}"
    header = ["model", "clean", *names, "average", "(clean + strongest)/2", alone]
    body = []
    for model, group in by_model.items():
        columns = [
            *zip(*(record["headline"]["accuracy"] for record in group), strict=True),
            [record["headline"]["average"] for record in group],
            [record["headline"]["clean_and_strongest"] for record in group],
            [record["suites"][0]["accuracy"][-1] for record in group],
        ]
        body.append([model, *(_cell(list(column)) for column in columns)])
    return header, body


def fullest(records: Sequence[Record]) -> list[Record]:
    """Of several evaluations of one trained model, the one that tried the most attacks.

    Returns:
        Records, one for each model and training seed, in order.

    Raises:
        ValueError: If two models have the same name and training seed.
    """
    chosen: dict[tuple[str, Any], Record] = {}
    weights: dict[tuple[str, Any], str] = {}
    for number, record in enumerate(records):
        seed = record.get("training_seed")
        key = (record["model"], number if seed is None else seed)
        mine = record.get("weights_sha256")
        if mine is not None and weights.setdefault(key, mine) != mine:
            raise ValueError(
                f"two models of other weights are named {record['model']}, seed {seed}; leave one "
                "out, or train it under another --name."
            )
        if key not in chosen or attack_count(record) > attack_count(chosen[key]):
            chosen[key] = record
    return list(chosen.values())


def strength_marks(record: Record) -> tuple[list[str], str]:
    """Ticks of an axis of strengths, and what to add to its title.

    Returns:
        255ths without their denominator where all strengths are such, for narrow pictures, and
        then ``", in 255ths"``; else the strengths as they are written, and nothing.
    """
    written, below = record["epsilons_written"], "/255"
    if all(text == "0" or text.endswith(below) for text in written):
        return [text.removesuffix(below) for text in written], ", in 255ths"
    return written, ""


def attack_count(record: Record) -> int:
    """How many attacks a record tried, over all suites."""
    return sum(len(suite["attacks"]) for suite in record["suites"])


def check_comparable(records: Sequence[Record], what: str) -> None:
    """Refuse records that cannot stand in one table.

    Args:
        records: Any number of them.
        what: The table's name for the message.

    Raises:
        ValueError: If there is none, or two differ in one of ``MUST_AGREE``.
    """
    if not records:
        raise ValueError(f"there is no record to make a {what} of; name some.")
    first = records[0]
    for record in records:
        for key in MUST_AGREE:
            # Records did not name their part at first, and all were of test images.
            absent = "test" if key == "part" else None
            one, other = first.get(key, absent), record.get(key, absent)
            if one != other:
                remedy = f"evaluate both alike, or make one {what} for each"
                if first["model"] == record["model"]:
                    remedy = (
                        "it was evaluated in several ways: name one record file, not the folder"
                    )
                raise ValueError(
                    f"records of one {what} must agree in {key}: {first['model']} has {one}, "
                    f"{record['model']} has {other}; {remedy}."
                )


def rich_table(records: Sequence[Record], title: str) -> Table:
    """The table for a terminal.

    Args:
        records: As for ``rows``.
        title: Printed above.

    Returns:
        A rich table; the best trade-off is bold.
    """
    header, body = rows(records)
    # Only the trade-off keeps its deviation here, so that the table fits into 80 columns.
    trade_off = len(header) - 2
    body = [
        [cell if n in (0, trade_off) else cell.split(" (")[0] for n, cell in enumerate(row)]
        for row in body
    ]
    table = Table(
        title=title,
        title_justify="left",
        caption=f"\n{caption(records)}",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    left, heads = WIDTH, list[str]()
    for number, name in reversed([*enumerate(header)]):
        # Broken by hand, and only names are folded, so that the table fits into 80 columns.
        short = name.replace(" = ", " ").replace(
            "(clean + strongest)/2", "(clean +\nstrongest)\n/2"
        )
        short = short.replace(" alone, ", "\nalone\n").replace("average", "avg")
        heads.insert(0, short)
        if number:
            left -= 2 + max([*(len(row[number]) for row in body), *map(len, short.split("\n"))])
    table.add_column(heads[0], overflow="fold")
    for short in heads[1:]:
        table.add_column(short, justify="right", no_wrap=True)
    best = max(body, key=lambda row: float(row[-2].split()[0]))
    for row in body:
        row[0] = in_lines(row[0], left)
        table.add_row(*row, style="bold" if row is best else None)
    return table


def in_lines(name: str, width: int, after: str = "_") -> str:
    """A name in lines of about ``width``, broken after a character.

    Args:
        name: A model's or an attack's.
        width: Characters; a piece without the character may be longer.
        after: Where a line may end.

    Returns:
        The name with line ends in it.
    """
    lines = [""]
    for piece in re.findall(rf"[^{after}]*{after}|[^{after}]+", name):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def markdown_table(records: Sequence[Record]) -> str:
    """The table as Markdown, with its caption under it."""
    header, body = rows(records)
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in body]
    return "\n".join([*lines, "", caption(records)]) + "\n"


def caption(records: Sequence[Record]) -> str:
    """What the numbers are: data, images, threat, attacks, seeds."""
    records = fullest(records)
    first = records[0]
    tried = sorted({attack_count(record) for record in records})
    attacks = f"{tried[0]}" if len(tried) == 1 else f"{tried[0]} to {tried[-1]}"
    same = [record["headline"]["accuracy"][-1] for record in records_of(records, first["model"])]
    low, high = wilson_interval(round(mean(same) * first["images"]), first["images"])
    return (
        f"{first['data']}, {first['images']} {first.get('part', 'test')} images, {first['norm']}, "
        f"accuracy in %.{seeds_said(records)} "
        f"Each strength is the per-image worst case over a model's {attacks} attacks, carried "
        "upwards; "
        f"95 % interval of the first row's strongest column: {100 * low:.1f} to {100 * high:.1f}."
    )


def records_of(records: Sequence[Record], model: str) -> list[Record]:
    """Those of one model, one a seed."""
    return [record for record in records if record["model"] == model]


def seeds_said(records: Sequence[Record]) -> str:
    """The sentence of a caption that says over how many seeds a number is a mean, or nothing."""
    counts = {len(records_of(records, record["model"])) for record in records}
    if max(counts) == 1:
        return ""
    upto = "up to " if len(counts) > 1 else ""
    return f" Mean over {upto}{max(counts)} seeds (standard deviation)."


def ranked(records: Sequence[Record]) -> list[Record]:
    """Records in the order of their models' trade-off, the best first.

    Args:
        records: Of models evaluated alike.

    Returns:
        The same records.
    """
    trade_offs: dict[str, list[float]] = defaultdict(list)
    for record in fullest(records):
        trade_offs[record["model"]].append(record["headline"]["clean_and_strongest"])
    return sorted(records, key=lambda record: -mean(trade_offs[record["model"]]))


def _cell(values: list[float]) -> str:
    if len(values) == 1:
        return f"{100 * values[0]:.1f}"
    return f"{100 * mean(values):.1f} ({100 * stdev(values):.1f})"
