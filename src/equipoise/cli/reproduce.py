"""The command ``equipoise reproduce``."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from equipoise.cli.options import Folder, Number, Switch, console, errors, optional, print_line
from equipoise.runtime.signals import Interrupted, exit_status


def reproduce(
    entries: Annotated[tuple[str, ...], tyro.conf.Positional, optional("ENTRY...")],
    *,
    scale: Literal["tiny", "compact", "paper"] = "tiny",
    seeds: Number = 1,
    out: Folder = Path("runs/reproduce"),
    data: Annotated[Path | None, optional("FOLDER")] = None,
    only_finished: Switch = False,
    dry_run: Switch = False,
    names: Annotated[Switch, tyro.conf.arg(name="list")] = False,
) -> None:
    """Reproduce tables and figures of both papers, with published and measured values.
    To continue an interrupted reproduction, run the same command again.

    Args:
        entries: Names such as afa-table-1 or afs-fig-4b; all for every entry.
        scale: tiny: digits; compact: small networks on CIFAR-10; paper: the papers' settings.
        seeds: Models to train per recipe, with seeds 0 to N-1.
        out: Folder for runs, tables and figures.
        data: Folder of the data set, or a folder with one subfolder per data set: cifar10, svhn.
        only_finished: Train and evaluate nothing; show what is finished. Rows without a measurement
            show published values only.
        dry_run: Only print what would be trained and evaluated, with estimated times.
        names: Only print the names of all tables and figures.
    """
    from equipoise.report.papers import ENTRIES, SCALES, Table, rich_entry

    if names:
        from rich.table import Table as RichTable

        table = RichTable("entry", "paper", "what it shows")
        for entry in ENTRIES.values():
            table.add_row(entry.name, entry.paper, entry.title)
        console.print(table)
        return
    from equipoise.reproduce import reproduce as run_entries
    from equipoise.runtime.progress import Terminal

    try:
        with Terminal(console) as terminal:
            reproduction = run_entries(
                entries, SCALES[scale], seeds=range(seeds), out=out, data=data,
                mode="plan" if dry_run else "finished" if only_finished else "run",
                reporter=terminal.named,
            )  # fmt: skip
    except Interrupted:
        errors.print("stopped; finished work is saved. Run the same command to continue.")
        sys.exit(exit_status())
    for entry in reproduction.entries:
        if isinstance(entry.content, Table):
            console.print(rich_entry(entry, SCALES[scale], reproduction.results))
    if reproduction.files:
        print_line(f"Tables and figures: {reproduction.files[-1]}")
