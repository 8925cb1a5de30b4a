"""What a dry run found, for a terminal."""

from collections.abc import Callable
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text


def rich_costs(cost: dict[str, Any]) -> Group:
    """A table with a column for each stage that was measured.

    Args:
        cost: What ``equipoise.workflows.dry_run.dry_run`` gave.

    Returns:
        Something that rich prints.
    """
    table = Table(title=f"What {cost['recipe']} would cost on {cost['device']}")
    table.add_column("")
    measured = [stage for stage in cost["stages"] if not stage["like"]]
    for stage in measured:
        alike = sum(other["like"] == stage["stage"] for other in cost["stages"])
        title = stage["stage"] + (f", and {alike} alike" if alike else "")
        table.add_column(title, justify="right", overflow="fold")
    for label, cell in _ROWS.items():
        table.add_row(label, *(cell(stage) for stage in measured))
    whose = "process" if cost["device"] == "cpu" else "device"
    lines = [
        "Passes: images sent forward + gradients taken. Time: steps and validations, without "
        f"reading data and writing checkpoints. Memory: the most that the {whose} holds.",
        f"in all: {duration(cost['seconds'])}, {short(cost['memory'])}B of memory",
    ]
    return Group(table, *(Text(line) for line in lines))


def short(number: float) -> str:
    """A count with three digits and a unit: 36.5 M."""
    for unit in ("", " k", " M", " G", " T"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} P"


def duration(seconds: float) -> str:
    """A time with two or three digits: 0.213 s, 4.5 min, 3.2 h, 12 days."""
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86400:.3g} days"


def _passes(forward: float, backward: float) -> str:
    return f"{short(forward)} + {short(backward)}" if forward else "-"


def _measured(stage: dict[str, Any]) -> str:
    found = stage["measured"]
    return f"{found['steps']} steps of {found['batch']} images, {duration(found['seconds'])} each"


_ROWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "parameters": lambda stage: short(stage["parameters"]),
    "of them trained": lambda stage: short(stage["trained"]),
    "multiply-adds an image": lambda stage: short(stage["multiply_adds"]),
    "passes an image and step": lambda stage: _passes(*stage["passes_an_image"]),
    "passes an epoch": lambda stage: _passes(
        stage["forward_passes_an_epoch"], stage["backward_passes_an_epoch"]
    ),
    "epochs": lambda stage: str(stage["epochs"]),
    "steps an epoch": lambda stage: f"{stage['steps_an_epoch']} of {stage['batch']} images",
    "measured": _measured,
    "a step": lambda stage: duration(stage["seconds_a_step"]),
    "a validation": lambda stage: duration(stage["seconds_a_validation"]),
    "memory": lambda stage: short(stage["memory"]) + "B",
    "in all": lambda stage: duration(stage["seconds"]),
}
