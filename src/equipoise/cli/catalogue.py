"""The command ``equipoise list``."""

from typing import Annotated

import tyro

from equipoise.cli.options import console, optional
from equipoise.runtime.errors import InvalidInput


def list_recipes(
    words: Annotated[tuple[str, ...], tyro.conf.Positional, optional("[WORD...]")] = (),
) -> None:
    """List the recipes and what each one trains.

    Args:
        words: List only recipes with all of these words in name, group or description, such as
            afs paper.
    """
    from rich.table import Table

    from equipoise.recipes import GROUPS

    table = Table("recipe", "what it trains")
    for group, recipes in GROUPS.items():
        rows = [(make.__name__, (make.__doc__ or "").splitlines()[0]) for make in recipes]
        matches = [
            row
            for row in rows
            if all(word.lower() in " ".join((group, *row)).lower() for word in words)
        ]
        if matches:
            table.add_row(f"[bold]{group}")
            for row in matches:
                table.add_row(*row)
            table.add_section()
    if not table.row_count:
        raise InvalidInput(
            f"no recipe matches the words {' '.join(words)}; `equipoise list` shows all recipes."
        )
    console.print(table)
