"""Speed table from benchmark records; each line is a ratio of times measured alternately."""

from collections.abc import Iterator, Sequence
from typing import Any

from equipoise.runtime.errors import InvalidInput

Record = dict[str, Any]


def speed_table(
    records: Sequence[Record], rows: Sequence[Sequence[int] | None] | None = None
) -> str:
    """Table of the comparisons in benchmark records, as Markdown.

    Args:
        records: Records as the scripts in ``benchmarks/`` write them.
        rows: For each record, which of its comparisons to show, counted from 0; ``None`` for all.
            The share of the ceiling is given only for records that are shown whole.

    Returns:
        The table, and a caption with machine and date.

    Raises:
        ValueError: If there is no record, or one holds no comparison.
    """
    if not records:
        raise InvalidInput(
            "a speed table needs at least one benchmark record, got none; name some."
        )
    lines = ["| what | ours | against | seconds | ratio |", "|---|---|---|---:|---|"]
    ceilings = []
    for record, chosen in zip(records, rows or [None] * len(records), strict=True):
        parts = list(_parts(record))
        if not parts:
            raise InvalidInput(
                f"a benchmark record must hold a comparison, got none in "
                f"{record.get('benchmark')}; run the benchmark again."
            )
        shown = [_row(line) for part in parts for line in part["comparisons"]]
        lines += shown if chosen is None else [shown[number] for number in chosen]
        ceilings += [_ceiling(p) for p in parts if chosen is None and "share_of_ceiling" in p]
    dates = sorted({record["date"] for record in records})
    first = records[0]
    threads = sorted({record["settings"]["threads"] for record in records})
    caption = (
        f"Median of paired ratios (quartiles); {first['environment']['processor']}, "
        f"{' or '.join(map(str, threads))} threads, {' and '.join(dates)}."
    )
    return "\n".join([*lines, "", " ".join([caption, *ceilings])]) + "\n"


def _parts(content: Any) -> Iterator[Record]:
    """Objects that hold comparisons, in order."""
    if isinstance(content, dict):
        if "comparisons" in content:
            yield content
        content = list(content.values())
    if isinstance(content, list):
        for value in content:
            yield from _parts(value)


def _row(line: Record) -> str:
    ratio = f"{line['ratio']['median']:.2f}"
    if "quartiles" in line["ratio"]:
        low, high = line["ratio"]["quartiles"]
        ratio += f" ({low:.2f} to {high:.2f})"
    unit = "times as fast" if line["sense"] == "speed-up" else "times the time"
    seconds = f"{line['seconds']['ours']:.3g}, {line['seconds']['against']:.3g}"
    return f"| {line['what']} | {line['ours']} | {line['against']} | {seconds} | {ratio} {unit} |"


def _ceiling(part: Record) -> str:
    share = part["share_of_ceiling"]
    return (
        f"{part['comparisons'][0]['what']}: {100 * share['median']:.0f} % of the rate of a "
        f"{share.get('ceiling', 'large matrix product')} in {share['precision']}, measured at the "
        "same time."
    )
