"""The command ``equipoise reproduce``. torch is imported only when it is needed."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from equipoise.cli.options import console, errors
from equipoise.runtime.signals import Interrupted, exit_status


def reproduce(
    entries: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ENTRY...")],
    scale: Literal["tiny", "compact", "paper"] = "tiny",
    seeds: int = 1,
    out: Path = Path("runs/reproduce"),
    data: Path | None = None,
    only_finished: bool = False,
) -> None:
    """Make tables and figures of both papers again, published and measured side by side.

    Stopped or killed, the same command goes on; run again, it re-uses what is there.

    Args:
        entries: Such as afa-table-1 or afs-fig-4b; all for every one, list to name them.
        scale: tiny: digits; compact: small networks on CIFAR-10; paper: the papers' own.
        seeds: Models trained of each recipe, with seeds from 0.
        out: Folder for runs, tables and figures.
        data: Folder of the data set, or one that holds a folder for each: cifar10, svhn.
        only_finished: Train and evaluate nothing; show what is there. Rows that are not made yet
            stand with their published values alone.
    """
    from equipoise.report.papers import ENTRIES, SCALES, Table, rich_entry

    if entries == ("list",):
        from rich.table import Table as RichTable

        table = RichTable("entry", "paper", "what it shows")
        for entry in ENTRIES.values():
            table.add_row(entry.name, entry.paper, entry.title)
        console.print(table)
        return
    from equipoise.cli.progress import Terminal
    from equipoise.reproduce import reproduce as make

    try:
        with Terminal(console) as terminal:
            made = make(
                entries, SCALES[scale], seeds=range(seeds), out=out, data=data,
                only_finished=only_finished, reporter=terminal.of, log=terminal.log,
            )  # fmt: skip
    except Interrupted:
        errors.print("stopped; what was made is kept: the same command goes on.")
        sys.exit(exit_status())
    for entry in made.entries:
        if isinstance(entry.content, Table):
            console.print(rich_entry(entry, SCALES[scale], made.results))
    console.print(f"Tables and figures: {made.files[-1]}", highlight=False, soft_wrap=True)
