"""Consoles, argument types and helpers that several commands share. Does not import torch."""

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import tyro
from rich.console import Console

from equipoise.runtime.signals import exit_status

console = Console()
errors = Console(stderr=True, soft_wrap=True)


def optional(metavar: str | None = None, **settings: Any) -> Any:
    """Annotation of a flag whose help text shows no default where there is none.

    Args:
        metavar: Placeholder of the value in the help text.
        settings: Other arguments of ``tyro.conf.arg``.
    """

    def hint(default: str) -> str:
        return "" if default in ("", "None", "False") else f"(default: {default})"

    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint, **settings)


Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
Records = Annotated[tuple[Path, ...], tyro.conf.Positional, optional("RECORD_OR_FOLDER...")]
Count = Annotated[int | None, optional("N")]
Number = Annotated[int, tyro.conf.arg(metavar="N")]
Switch = Annotated[bool, optional()]
Data = Annotated[Path | None, optional("PATH")]
Folder = Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
Preference = Annotated[float | None, optional("LAMBDA")]
Trust = Annotated[tuple[str, ...], optional("MODULE...")]


def print_line(text: str) -> None:
    """Print one line as it is: not wrapped, so that paths and commands can be copied."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def exit_interrupted(command: str) -> NoReturn:
    """Print the command that continues an interrupted run, and exit."""
    errors.print(
        f"stopped; a checkpoint is saved. Continue with: {command}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    sys.exit(exit_status())
