"""What a dry run found, for a terminal."""

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text


def rich_costs(cost: dict[str, Any]) -> Group:
    """A table with a row for each stage, and what was measured.

    Args:
        cost: What ``equipoise.jobs.dry_run`` gave.

    Returns:
        Something that rich prints.
    """
    table = Table(title=f"What {cost['recipe']} would cost on {cost['device']}")
    table.add_column("stage", overflow="fold")
    for column in (
        "parameters",
        "multiply-adds an image",
        "passes an image",
        "passes an epoch",
        "epochs x steps",
        "memory",
        "a step",
        "a validation",
        "in all",
    ):
        table.add_column(column, justify="right")
    for stage in cost["stages"]:
        table.add_row(
            stage["stage"],
            short(stage["parameters"]),
            short(stage["multiply_adds"]),
            _both(stage["passes_an_image"], "{:.3g}"),
            _both((stage["forward_passes_an_epoch"], stage["backward_passes_an_epoch"])),
            f"{stage['epochs']} x {stage['steps_an_epoch']}",
            short(stage["memory"]) + "B",
            duration(stage["seconds_a_step"]),
            duration(stage["seconds_a_validation"]),
            duration(stage["seconds"]),
        )
    whose = "process" if cost["device"] == "cpu" else "device"
    lines = [
        "Passes: images sent forward + gradients taken. Time: steps and validations, without "
        f"reading data and writing checkpoints. Memory: the most that the {whose} holds.",
        *(_measured(stage) for stage in cost["stages"]),
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


def _both(pair: Any, form: str | None = None) -> str:
    if not pair[0]:
        return "-"
    return " + ".join(form.format(each) if form else short(each) for each in pair)


def _measured(stage: dict[str, Any]) -> str:
    if stage["like"]:
        return f"{stage['stage']}: not measured; every count is that of {stage['like']}"
    found = stage["measured"]
    scaled = f", scaled to {stage['batch']}" if found["batch"] != stage["batch"] else ""
    return (
        f"{stage['stage']}: measured {found['steps']} steps of {found['batch']} images, "
        f"{duration(found['seconds'])} each{scaled}"
    )
