"""Accuracy against attack strength as a figure file, for a page or a paper."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from equipoise.report.extras import report_extra
from equipoise.report.papers.entry import FORMATS
from equipoise.report.papers.measurements import Drawing, Result
from equipoise.report.record import Record
from equipoise.report.table import fullest
from equipoise.runtime.errors import InvalidInput
from equipoise.runtime.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = tuple(f".{kind}" for kind in FORMATS)


def write_curves(records: Sequence[Record], file: Path) -> None:
    """Draw one line for each model; several seeds become a mean and a band of one deviation.

    Args:
        records: Evaluations at the same strengths.
        file: Figure file; its ending, one of ``ENDINGS``, chooses the format.

    Raises:
        ValueError: If the ending is unknown, there is no record, or strengths differ.
        RunError: If matplotlib is not installed, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> record = {"model": "afa", "data": "digits", "norm": "Linf", "suites": [],
        ...           "epsilons": [0.0, 0.1], "epsilons_written": ["0", "0.1"],
        ...           "headline": {"accuracy": [0.9, 0.5]}}
        >>> figure = Path(tempfile.mkdtemp()) / "curves.svg"
        >>> write_curves([record], figure)
        >>> ">afa<" in figure.read_text()
        True
    """
    if file.suffix not in ENDINGS:
        raise InvalidInput(f"a figure file must end in {', '.join(ENDINGS)}, got {file}.")
    figure = curves_figure(records)
    from equipoise.report.papers.style import encoded, styled

    with styled():
        write_bytes(file, encoded(figure, file.suffix[1:]))


def curves_figure(records: Sequence[Record]) -> "Figure":
    """Draw one line for each model, as ``write_curves`` does, and return the figure.

    Args:
        records: Evaluations at the same strengths.

    Raises:
        ValueError: If records is empty, or strengths differ.
        RunError: If matplotlib is not installed.
    """
    if not records:
        raise InvalidInput("a figure needs at least one record, got none; name record files.")
    shown = fullest(records)
    if len({tuple(record["epsilons"]) for record in shown}) > 1:
        raise InvalidInput(
            "curves share an axis, so records must agree in strengths; draw each set of strengths "
            "in its own figure."
        )
    measured: dict[str, list[Result]] = {}
    for record in shown:
        measured.setdefault(record["model"], []).append(Result(recipe={}, record=record))
    drawing = Drawing(
        measured=measured,
        published={},
        published_as="",
        measured_as=f"{shown[0]['data']}, {shown[0]['norm']}, worst case per image",
    )
    with report_extra("a figure file"):
        from equipoise.report.papers.line_figures import accuracy_curves
        from equipoise.report.papers.style import styled
    with styled():
        return accuracy_curves(drawing)
