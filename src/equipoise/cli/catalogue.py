"""The command ``equipoise list``, which reads an index, so that torch is not imported."""

import json
from pathlib import Path
from typing import Annotated

import tyro

from equipoise.cli.options import Switch, console, optional, print_line
from equipoise.runtime.errors import InvalidInput

INDEX = Path(__file__).with_name("recipes.json")
"""Groups of recipes: a name and a summary each. ``make index`` writes it."""
FIRST = ("Digits", "CIFAR-10, compact")
"""Groups that are shown in full: what two cores train in minutes or hours."""


def list_recipes(
    words: Annotated[tuple[str, ...], tyro.conf.Positional, optional("[WORD...]")] = (),
    *,
    every: Annotated[Switch, tyro.conf.arg(name="all")] = False,
) -> None:
    """List the recipes and what each one trains.

    Args:
        words: List only recipes with all of these words in name, group or description, such as
            afs paper.
        every: List every recipe.
    """
    from rich import box
    from rich.table import Table

    groups: dict[str, list[list[str]]] = json.loads(INDEX.read_text(encoding="utf-8"))
    table = Table("recipe", "what it trains", box=box.SIMPLE_HEAD)
    others = Table("further recipes", "number", box=box.SIMPLE_HEAD)
    for group, rows in groups.items():
        matches = [row for row in rows if _has_words(" ".join((group, *row)), words)]
        if matches and not (words or every or group in FIRST):
            others.add_row(group, str(len(matches)))
        elif matches:
            table.add_row(f"[bold]{group}")
            for row in matches:
                table.add_row(*row)
            table.add_section()
    if not table.row_count:
        raise InvalidInput(
            f"no recipe matches the words {' '.join(words)}; `equipoise list --all` shows all."
        )
    console.print(table)
    if others.row_count:
        console.print(others)
        print_line(
            "equipoise list WORD... shows those with the words, such as `equipoise list afs paper`;"
        )
        print_line("equipoise list --all shows every recipe.")


def _has_words(text: str, words: tuple[str, ...]) -> bool:
    return all(word.lower() in text.lower() for word in words)
