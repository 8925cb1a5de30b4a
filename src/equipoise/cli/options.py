"""What several commands share: consoles, kinds of arguments, the end of a stopped command."""

import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import tyro
from rich.console import Console

from equipoise.runtime.signals import (
    exit_status,
)

Suites = Literal["quick", "tables", "paper", "standard", "autoattack", "adaptive", "transfer"]


Records = Annotated[
    tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RECORD_OR_FOLDER...")
]


console = Console()


errors = Console(stderr=True, soft_wrap=True)


Sources = Literal["digits", "cifar10", "cifar100", "svhn", "tinyimagenet", "imagefolder", "npz"]


def stopped(command: str) -> NoReturn:
    """Say how to go on, and end as an interrupted process does."""
    errors.print(
        f"stopped; a checkpoint is saved. Go on with: {command}", highlight=False, soft_wrap=True
    )
    sys.exit(exit_status())
