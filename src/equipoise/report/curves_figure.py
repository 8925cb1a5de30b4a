"""Accuracy over strength as a picture of its own, for a page or a paper."""

from collections.abc import Sequence
from pathlib import Path

from equipoise.report.papers.line_figures import accuracy_curves
from equipoise.report.papers.measurements import Result
from equipoise.report.papers.style import FORMATS, Drawing, encoded, styled
from equipoise.report.table import Record, fullest
from equipoise.runtime.files import write_bytes

ENDINGS = tuple(f".{kind}" for kind in FORMATS)


def write_curves(records: Sequence[Record], file: Path) -> None:
    """Draw records, one line a model; several seeds are a mean and a band of one deviation.

    Args:
        records: Of the same images at the same strengths.
        file: To be written; its ending says the format.

    Raises:
        ValueError: If the ending is unknown, there is no record, or strengths differ.
        RunError: If the file cannot be written.
    """
    if file.suffix not in ENDINGS:
        raise ValueError(f"a picture of curves ends in {', '.join(ENDINGS)}, got {file}.")
    if not records:
        raise ValueError("there is no record to draw; name record files or a folder of some.")
    shown = fullest(records)
    if len({tuple(record["epsilons"]) for record in shown}) > 1:
        raise ValueError("curves share an axis, but these records have different strengths.")
    measured: dict[str, list[Result]] = {}
    for record in shown:
        measured.setdefault(record["model"], []).append(Result(recipe={}, record=record))
    with styled():
        drawing = Drawing(
            measured=measured,
            published={},
            published_as="",
            measured_as=f"{shown[0]['data']}, {shown[0]['norm']}, worst case per image",
        )
        content = encoded(accuracy_curves(drawing), file.suffix[1:])
    write_bytes(file, content)
