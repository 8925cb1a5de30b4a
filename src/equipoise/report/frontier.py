"""Table, figure and sentences of a frontier: clean against worst-case accuracy at equal cost."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, variance
from typing import Any

from rich import box
from rich.table import Table

from equipoise.records.epsilon import format_epsilon
from equipoise.report.extras import report_extra
from equipoise.report.record import Record
from equipoise.runtime.files import write_bytes

EQUAL = 1.1
"""Inference that costs up to this many times the cheapest counts as equal."""
Z = 1.96
_SYMBOLS = {"epsilon": "ε", "preference": "λ", "alpha": "α", "beta": "β"}


def on_front(point: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> bool:
    """Whether no other point is at least as good in both accuracies and better in one.

    Args:
        point: A point with ``clean`` and ``worst``.
        others: The points it is compared with.

    Example:
        >>> points = [{"clean": 0.9, "worst": 0.1}, {"clean": 0.8, "worst": 0.1}]
        >>> [on_front(point, points) for point in points]
        [True, False]
    """

    def surpasses(other: Mapping[str, Any]) -> bool:
        pairs = [(other[name], point[name]) for name in ("clean", "worst")]
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    return not any(map(surpasses, others))


def half(runs: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Mean of (clean + worst)/2 over seeds, and half the width of its 95 % interval.

    An image counts 1 if it survives every attack, 1/2 if it is right only while clean, and else 0,
    which gives the variance over images. Several seeds add theirs.

    Args:
        runs: For each seed ``clean``, ``worst`` and ``images``.

    Example:
        >>> value, margin = half([{"clean": 0.8, "worst": 0.4, "images": 1000}])
        >>> round(value, 3), round(margin, 3)
        (0.6, 0.023)
    """
    values = [(run["clean"] + run["worst"]) / 2 for run in runs]
    squares = [run["worst"] + (run["clean"] - run["worst"]) / 4 for run in runs]
    # The images are the same for every seed, so more seeds do not make their variance smaller.
    images = mean(
        (square - value**2) / run["images"]
        for run, value, square in zip(runs, values, squares, strict=True)
    )
    seeds = variance(values) / len(values) if len(values) > 1 else 0.0
    return mean(values), Z * math.sqrt(max(images, 0.0) + seeds)


def _margin(runs: Sequence[Mapping[str, Any]], name: str) -> float:
    """Half the width of the 95 % interval of one accuracy, over images and seeds."""
    images = mean(run[name] * (1 - run[name]) / run["images"] for run in runs)
    values = [run[name] for run in runs]
    seeds = variance(values) / len(values) if len(values) > 1 else 0.0
    return Z * math.sqrt(images + seeds)


def rows_of(document: Record) -> list[dict[str, Any]]:
    """The points that were judged on test images, the highest half first.

    Args:
        document: Contents of ``frontier.json``.

    Returns:
        Name, accuracies, half with its margin, costs, and whether the point is its method's choice.
    """
    judged = [point for point in document["points"] if "test" in point]
    least = min((_multiply_adds(point) for point in judged), default=1.0)
    rows = []
    for point in judged:
        value, margin = half(point["test"])
        rows.append(
            {
                "method": point["method"],
                "value": point["value"],
                "knob": point["knob"].rpartition(".")[2],
                **{name: mean(run[name] for run in point["test"]) for name in ("clean", "worst")},
                "margins": [_margin(point["test"], name) for name in ("clean", "worst")],
                "half": value,
                "margin": margin,
                "seeds": len(point["test"]),
                "images": point["test"][0]["images"],
                "seconds": mean(run["seconds"] for run in point["runs"]),
                "inference": _multiply_adds(point) / least,
                "chosen": point["chosen"],
                "failed": sorted({name for run in point["test"] for name in run["failed_checks"]}),
            }
        )
    return sorted(rows, key=lambda row: -float(row["half"]))


def verdict(document: Record) -> list[str]:
    """What the frontier means, in sentences.

    Args:
        document: Contents of ``frontier.json``.
    """
    rows = [row for row in rows_of(document) if row["chosen"] and not row["failed"]]
    if not rows:
        return ["No choice passed its self-checks."]
    sentences = [_lead(rows, "at equal training cost")]
    cheap = [row for row in rows if row["inference"] <= EQUAL]
    if len(cheap) < len(rows):
        sentences.append(_lead(cheap, "at equal training and equal inference cost"))
    return sentences


def _lead(rows: Sequence[Mapping[str, Any]], account: str) -> str:
    first, *others = rows
    text = (
        f"{account.capitalize()}, {_label(first)} has the highest half, {100 * first['half']:.1f}"
    )
    if not others:
        return f"{text}."
    lead = first["half"] - others[0]["half"]
    margin = math.hypot(first["margin"], others[0]["margin"])
    known = (
        "which the intervals tell apart" if lead > margin else "less than the intervals tell apart"
    )
    return (
        f"{text}; {_label(others[0])} is {100 * lead:.1f} points lower, {known} "
        f"(± {100 * margin:.1f})."
    )


def frontier_table(document: Record) -> str:
    """The points as a Markdown table, with a caption and the sentences."""
    heads = ["method", "knob", "clean", "worst case", "half", "training", "inference", "seeds"]
    lines = [f"| {' | '.join(heads)} |", "|---|---|---:|---:|---:|---:|---:|---:|"]
    lines += [f"| {' | '.join(_cells(row, bold='**'))} |" for row in rows_of(document)]
    return "\n".join([*lines, "", caption(document), "", *verdict(document)]) + "\n"


def rich_frontier(document: Record) -> Table:
    """The points as a table for the terminal."""
    table = Table(
        title="Clean against worst case at equal training cost",
        caption=caption(document),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for head in ("method", "knob"):
        table.add_column(head)
    for head in ("clean", "worst case", "half", "training", "inference", "seeds"):
        table.add_column(head, justify="right", no_wrap=head != "worst case")
    for row in rows_of(document):
        table.add_row(*_cells(row), style="bold" if row["chosen"] else None)
    return table


def caption(document: Record) -> str:
    """What was measured, and how."""
    rows = rows_of(document)
    images = f"{rows[0]['images']:,} test images of " if rows else ""
    return (
        f"Accuracy in % on {images}{document['data']}; worst case per image over "
        f"{' and '.join(document['suites'])} at {format_epsilon(document['epsilon'])} "
        f"({document['norm']}); half = (clean + worst case)/2 with its 95 % interval. Every "
        f"training had a budget of {document['budget']:g} {document['unit']}; inference is in "
        "multiply-adds, relative to the cheapest. Points were chosen on validation images; bold: "
        "the choice of its method."
    )


def write_frontier(document: Record, folder: Path) -> list[Path]:
    """Write ``frontier.md``, and ``frontier.svg`` and ``.png`` if matplotlib is installed.

    Args:
        document: Contents of ``frontier.json``.
        folder: Where the files go.

    Returns:
        The files.

    Raises:
        RunError: If matplotlib is not installed, or a file cannot be written.
    """
    write_bytes(folder / "frontier.md", frontier_table(document).encode())
    with report_extra("the figure of a frontier"):
        from equipoise.report.papers.style import encoded, styled
    files = [folder / "frontier.md"]
    with styled():
        figure = frontier_figure(document)
        for kind in ("svg", "png"):
            write_bytes(folder / f"frontier.{kind}", encoded(figure, kind))
            files.append(folder / f"frontier.{kind}")
    return files


def frontier_figure(document: Record) -> Any:
    """Worst case against clean, one line for each method; open marks cost more at inference."""
    from equipoise.report.papers.style import COLOURS, MARKS, canvas

    rows = rows_of(document)
    figure, (panel,) = canvas(1, 1, 2.8)
    for number, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        own = sorted((row for row in rows if row["method"] == method), key=lambda r: r["clean"])
        colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
        points = [(100 * row["clean"], 100 * row["worst"]) for row in own]
        panel.plot(*zip(*points, strict=True), color=colour, linewidth=0.8)
        for row, (clean, worst) in zip(own, points, strict=True):
            sides = [100 * margin for margin in row["margins"]]
            panel.errorbar(
                clean,
                worst,
                xerr=sides[0],
                yerr=sides[1],
                color=colour,
                marker=mark,
                markersize=5 if row["chosen"] else 3,
                markerfacecolor=colour if row["inference"] <= EQUAL else "white",
                elinewidth=0.5,
                linestyle="none",
            )
        panel.annotate(
            method,
            points[-1],
            textcoords="offset points",
            xytext=(4, 4),
            color=colour,
            fontsize=6,
        )
    panel.margins(x=0.15, y=0.15)
    _lines_of_equal_half(panel)
    panel.set_xlabel("clean accuracy, %")
    panel.set_ylabel(f"worst case at {format_epsilon(document['epsilon'])}, %")
    panel.set_title(
        f"{document['data']}, {document['budget']:g} {document['unit']} of training", loc="left"
    )
    return figure


def _lines_of_equal_half(panel: Any) -> None:
    """Dotted lines on which half is the same, inside the limits that the points have set."""
    low, high = panel.get_xlim()[0], min(panel.get_xlim()[1], 100.0)
    bottom, top = max(panel.get_ylim()[0], 0.0), panel.get_ylim()[1]
    step = 5 if high + top - low - bottom < 100 else 10
    for half_value in range(0, 101, step):
        ends = [(x, 2 * half_value - x) for x in (low, high)]
        panel.plot(
            *zip(*ends, strict=True), color="#BBBBBB", linewidth=0.4, linestyle=":", zorder=0
        )
        if bottom < 2 * half_value - high < top:
            panel.annotate(
                f"half {half_value}",
                (high, 2 * half_value - high),
                fontsize=5,
                color="#777777",
                ha="right",
                va="bottom",
            )
    panel.set_xlim(low, high)
    panel.set_ylim(bottom, top)


def _multiply_adds(point: Mapping[str, Any]) -> float:
    return float(mean(run["multiply_adds"] for run in point["runs"]))


def _label(row: Mapping[str, Any]) -> str:
    return f"{row['method']} ({_value(row)})" if row["knob"] else str(row["method"])


def _value(row: Mapping[str, Any]) -> str:
    if not row["knob"]:
        return "–"
    value = row["value"]
    written = format_epsilon(value) if "epsilon" in row["knob"] else f"{value:g}"
    return f"{_SYMBOLS.get(row['knob'], row['knob'])} {written}"


def _cells(row: Mapping[str, Any], bold: str = "") -> list[str]:
    mark = bold if row["chosen"] else ""
    failed = f" (failed: {', '.join(row['failed'])})" if row["failed"] else ""
    return [
        f"{mark}{row['method']}{mark}{failed}",
        _value(row),
        f"{100 * row['clean']:.1f}",
        f"{100 * row['worst']:.1f}",
        f"{100 * row['half']:.1f} ± {100 * row['margin']:.1f}",
        f"{row['seconds']:.0f} s",
        f"{row['inference']:.2f}",
        str(row["seeds"]),
    ]
