"""The command ``equipoise list``."""

from typing import Annotated

import tyro

from equipoise.cli.options import console


def list_recipes(
    words: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="WORD...")] = (),
) -> None:
    """Name every recipe, with what it trains.

    Args:
        words: Only those with all of these words in name, group or description: afs paper.
    """
    from rich.table import Table

    from equipoise.recipes import GROUPS

    table = Table("recipe", "what it trains")
    for group, recipes in GROUPS.items():
        rows = [(make.__name__, (make.__doc__ or "").splitlines()[0]) for make in recipes]
        found = [
            each
            for each in rows
            if all(word.lower() in " ".join((group, *each)).lower() for word in words)
        ]
        if found:
            table.add_row(f"[bold]{group}")
            for name, says in found:
                table.add_row(name, says)
            table.add_section()
    if not table.row_count:
        raise ValueError(f"no recipe has the words {' '.join(words)}; `equipoise list` names all.")
    console.print(table)
