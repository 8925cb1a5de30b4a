"""One restrained style: readable at a column's width, told apart without colour."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from equipoise.report.papers.measurements import Result
from equipoise.runtime.files import write_bytes

WIDTH = 3.3
"""Inches: one column of a two-column page."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
"""Okabe and Ito's, which the colour-blind tell apart; grey for their yellow."""
MARKS = ("o", "s", "D", "^", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.")
GREY = "#7F7F7F"
FORMATS = ("svg", "png", "pdf")
_SETTINGS: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.4,
    "axes.axisbelow": True,
    "lines.linewidth": 1.0,
    "lines.markersize": 3,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "savefig.dpi": 300,
    "svg.fonttype": "none",
    "svg.hashsalt": "equipoise",
    "pdf.fonttype": 42,
}


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What a figure is drawn from.

    Args:
        measured: By label, a model's results, one a seed; in the figure's order.
        published: By label, published values in percent.
        published_as: What the published values are of, for their title.
        measured_as: What the measured ones are of.
        data: What was computed from the models beyond their records, one a seed.
    """

    measured: Mapping[str, Sequence[Result]]
    published: Mapping[str, Mapping[str, float]]
    published_as: str
    measured_as: str
    data: Sequence[Any] = ()


@contextmanager
def styled() -> Iterator[None]:
    """The style, inside a ``with`` alone."""
    with matplotlib.rc_context(_SETTINGS):
        yield


def canvas(rows: int, columns: int, height: float, **settings: Any) -> tuple[Canvas, list[Axes]]:
    """An empty figure a column wide.

    Args:
        rows: Of panels.
        columns: Of panels.
        height: In inches.
        settings: Of ``matplotlib.figure.Figure.subplots``.

    Returns:
        The figure and its panels, row by row.
    """
    figure = Canvas(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, **settings)
    return figure, list(panels.flat)


def encoded(figure: Canvas, kind: str) -> bytes:
    """A figure in one of ``FORMATS``; the same figure gives the same bytes."""
    content = BytesIO()
    dates: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    figure.savefig(content, format=kind, metadata=dates.get(kind, {}))
    return content.getvalue()


def write_figure(figure: Canvas, path: Path) -> list[Path]:
    """Write a figure in every format.

    Args:
        figure: Drawn inside ``styled``.
        path: Without its ending.

    Returns:
        The files.

    Raises:
        RunError: If one cannot be written.
    """
    written = []
    for kind in FORMATS:
        place = path.with_name(f"{path.name}.{kind}")
        write_bytes(place, encoded(figure, kind))
        written.append(place)
    return written
