"""Style of figure files: readable at a column's width, distinguishable without colour."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from equipoise.report.papers.entry import FORMATS
from equipoise.report.series import GREY, OKABE_ITO
from equipoise.runtime.files import write_bytes

WIDTH = 3.3
"""Inches: one column of a two-column page."""
SCREEN_DPI = 160
"""Dots per inch in a notebook; files have more."""
COLOURS = (*OKABE_ITO, "#000000", GREY)
MARKS = ("o", "s", "D", "^", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.")
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


@contextmanager
def styled() -> Iterator[None]:
    """Context manager that applies the style."""
    with matplotlib.rc_context(_SETTINGS):
        yield


class _ShownCanvas(Canvas):
    """A figure that a notebook shows; matplotlib's own is shown only if pyplot made it."""

    def _repr_png_(self) -> bytes:
        content = BytesIO()
        self.savefig(content, format="png", dpi=SCREEN_DPI)
        return content.getvalue()


def canvas(rows: int, columns: int, height: float, **settings: Any) -> tuple[Canvas, list[Axes]]:
    """Make an empty figure of a column's width.

    Args:
        rows: Rows of panels.
        columns: Columns of panels.
        height: Height in inches.
        settings: Further arguments of ``matplotlib.figure.Figure.subplots``.

    Returns:
        The figure and its panels, row by row.
    """
    figure = _ShownCanvas(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, **settings)
    return figure, list(panels.flat)


def encoded(figure: Canvas, kind: str) -> bytes:
    """Encode a figure in one of ``FORMATS``; the same figure gives the same bytes."""
    content = BytesIO()
    dates: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    figure.savefig(content, format=kind, metadata=dates.get(kind, {}))
    return content.getvalue()


def write_figure(figure: Canvas, path: Path) -> list[Path]:
    """Write a figure in every format.

    Args:
        figure: Figure drawn inside ``styled``.
        path: Path without the ending.

    Returns:
        The files.

    Raises:
        RunError: If a file cannot be written.
    """
    files = []
    for kind in FORMATS:
        file = path.with_name(f"{path.name}.{kind}")
        write_bytes(file, encoded(figure, kind))
        files.append(file)
    return files
