"""The speed table: lines of benchmark records, each a ratio of times measured in turn."""

from collections.abc import Iterator, Sequence
from typing import Any

Record = dict[str, Any]


def speed_table(records: Sequence[Record]) -> str:
    """The comparisons of benchmark records as Markdown, with where and when they were measured.

    Args:
        records: As the scripts in ``benchmarks/`` write them.

    Returns:
        The table and its caption.

    Raises:
        ValueError: If there is no record, or one holds no comparison.
    """
    if not records:
        raise ValueError("there is no benchmark record to make a table of; name some.")
    lines = ["| what | ours | against | seconds | ratio |", "|---|---|---|---:|---|"]
    ceilings = []
    for record in records:
        parts = list(_parts(record))
        if not parts:
            raise ValueError(f"the benchmark {record.get('benchmark')} compares nothing.")
        for part in parts:
            lines += [_row(line) for line in part["comparisons"]]
            if "share_of_ceiling" in part:
                ceilings.append(_ceiling(part))
    dates = sorted({record["date"] for record in records})
    first = records[0]
    threads = sorted({record["settings"]["threads"] for record in records})
    caption = (
        f"Median of paired ratios (quartiles); {first['environment']['processor']}, "
        f"{' or '.join(map(str, threads))} threads, {' and '.join(dates)}."
    )
    return "\n".join([*lines, "", " ".join([caption, *ceilings])]) + "\n"


def _parts(content: Any) -> Iterator[Record]:
    """Whatever holds comparisons, in order."""
    if isinstance(content, dict):
        if "comparisons" in content:
            yield content
        for value in content.values():
            yield from _parts(value)
    elif isinstance(content, list):
        for value in content:
            yield from _parts(value)


def _row(line: Record) -> str:
    ratio = f"{line['ratio']['median']:.2f}"
    if "quartiles" in line["ratio"]:
        low, high = line["ratio"]["quartiles"]
        ratio += f" ({low:.2f} to {high:.2f})"
    says = "times as fast" if line["sense"] == "speed-up" else "times its time"
    seconds = f"{line['seconds']['ours']:.3g}, {line['seconds']['against']:.3g}"
    return f"| {line['what']} | {line['ours']} | {line['against']} | {seconds} | {ratio} {says} |"


def _ceiling(part: Record) -> str:
    share = part["share_of_ceiling"]
    return (
        f"{part['comparisons'][0]['what']}: {100 * share['median']:.0f} % of what a "
        f"{share.get('ceiling', 'large matrix product')} in {share['precision']} reached beside it."
    )
