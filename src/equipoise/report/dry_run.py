"""Print the costs that a dry run measured."""

from collections.abc import Callable
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text


def rich_costs(cost: dict[str, Any]) -> Group:
    """Table of training costs for the terminal, with a column for each stage that was measured.

    Args:
        cost: Result of ``equipoise.api.dry_run.dry_run``.

    Returns:
        A table with a caption, for ``rich.print``.
    """
    table = Table(title=f"Cost of training {cost['recipe']} on {cost['device']}")
    table.add_column("")
    measured = [stage for stage in cost["stages"] if not stage["like"]]
    for stage in measured:
        same = sum(other["like"] == stage["stage"] for other in cost["stages"])
        title = stage["stage"] + (f", and {same} of the same cost" if same else "")
        table.add_column(title, justify="right", overflow="fold")
    for label, cell in _ROWS.items():
        table.add_row(label, *(cell(stage) for stage in measured))
    holder = "process" if cost["device"] == "cpu" else "device"
    lines = [
        "Passes: forward + backward passes of one image. Time: training steps and validation, "
        f"without reading data and writing checkpoints. Memory: the peak of the {holder}.",
        f"total: {duration(cost['seconds'])}, {short(cost['memory'])}B of memory",
    ]
    return Group(table, *(Text(line) for line in lines))


def short(number: float) -> str:
    """Format a count with three digits and a unit.

    Example:
        >>> short(36_479_194)
        '36.5 M'
    """
    for unit in ("", " k", " M", " G", " T"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} P"


def duration(seconds: float) -> str:
    """Format a duration with up to three digits and a suitable unit.

    Example:
        >>> duration(0.213), duration(270), duration(11_520), duration(1_036_800)
        ('0.213 s', '4.5 min', '3.2 h', '12 days')
    """
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86400:.3g} days"


def _passes(forward: float, backward: float) -> str:
    return f"{short(forward)} + {short(backward)}" if forward else "-"


def _measured(stage: dict[str, Any]) -> str:
    sample = stage["measured"]
    return (
        f"{sample['steps']} steps of {sample['batch']} images, {duration(sample['seconds'])} each"
    )


_ROWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "parameters": lambda stage: short(stage["parameters"]),
    "trained parameters": lambda stage: short(stage["trained"]),
    "multiply-adds per image": lambda stage: short(stage["multiply_adds"]),
    "passes per image and step": lambda stage: _passes(*stage["passes_an_image"]),
    "passes per epoch": lambda stage: _passes(
        stage["forward_passes_an_epoch"], stage["backward_passes_an_epoch"]
    ),
    "epochs": lambda stage: str(stage["epochs"]),
    "steps per epoch": lambda stage: f"{stage['steps_an_epoch']} of {stage['batch']} images",
    "measured": _measured,
    "time per step": lambda stage: duration(stage["seconds_a_step"]),
    "time per validation": lambda stage: duration(stage["seconds_a_validation"]),
    "memory": lambda stage: short(stage["memory"]) + "B",
    "total time": lambda stage: duration(stage["seconds"]),
}
