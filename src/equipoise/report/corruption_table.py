"""Table of accuracy on corrupted images, for the terminal."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from rich import box
from rich.table import Table

EXTRA = ("gaussian_blur", "saturate", "spatter", "speckle_noise")
"""Corruptions that the authors publish for choosing settings; their mean leaves these out."""


def main_corruptions(names: Sequence[str]) -> tuple[str, ...]:
    """The corruptions that count for the mean: all but ``EXTRA``, unless there are no others.

    Example:
        >>> main_corruptions(["fog", "saturate", "snow"])
        ('fog', 'snow')
    """
    return tuple(name for name in names if name not in EXTRA) or tuple(names)


def rich_corruptions(result: Mapping[str, Any]) -> Table:
    """Accuracy of one model by corruption and severity, in percent.

    Args:
        result: Result of ``evaluate_corruptions``.

    Returns:
        One row for each corruption and one for the mean of those that count.

    Example:
        >>> result = {"model": "m", "data": "C", "images": 9, "clean": 0.9}
        >>> result |= {"corruptions": {"fog": [0.8, 0.7, 0.6, 0.5, 0.4]}, "mean": 0.6}
        >>> rich_corruptions(result).row_count
        3
    """
    by_name = result["corruptions"]
    main = main_corruptions(list(by_name))
    severities = [str(number + 1) for number in range(len(next(iter(by_name.values()))))]
    table = Table(
        title=f"{result['model']} on {result['data']}: accuracy in %, {result['images']:,} images "
        "per severity",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("corruption")
    for head in ("mean", *severities):
        table.add_column(head, justify="right")
    if result["clean"] is not None:
        table.add_row("clean", *_cells([result["clean"]]), style="bold")
    for name in (*main, *(name for name in by_name if name not in main)):
        note = "" if name in main else " (extra)"
        table.add_row(name + note, *_cells([mean(by_name[name]), *by_name[name]]))
    by_severity = [
        mean(by_name[name][number] for name in main) for number in range(len(severities))
    ]
    label = "mean" if len(main) == len(by_name) else "mean without extra"
    table.add_row(label, *_cells([result["mean"], *by_severity]), style="bold")
    return table


def _cells(values: Sequence[float]) -> list[str]:
    return [f"{100 * value:.1f}" for value in values]
