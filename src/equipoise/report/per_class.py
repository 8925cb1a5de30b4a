"""Accuracy of each class, clean and under attack, for the terminal and the page."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from equipoise.report.marks import apart_last, marked_name
from equipoise.report.record import Record
from equipoise.report.table import check_comparable, fullest


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """Accuracy of one model on one class.

    Args:
        number: Index of the class.
        images: Its number of images.
        accuracy: Worst-case accuracy at each strength, clean first; mean over seeds.
    """

    number: int
    images: int
    accuracy: tuple[float, ...]


def class_rows(records: Sequence[Record]) -> list[ClassRow]:
    """Accuracy of one model on each class that has images.

    Args:
        records: Records of one model, one for each training seed, on the same images.

    Returns:
        One row for each class; empty if a record does not hold them, as older ones do not.

    Example:
        >>> rows = [{"class": 3, "images": 9, "accuracy": [1.0, 0.5]}]
        >>> class_rows([{"per_class": rows}])
        [ClassRow(number=3, images=9, accuracy=(1.0, 0.5))]
    """
    if not all("per_class" in record for record in records):
        return []
    by_class: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        for row in record["per_class"]:
            by_class[row["class"]].append(row)
    return [
        ClassRow(
            number=number,
            images=rows[0]["images"],
            accuracy=tuple(map(mean, zip(*(row["accuracy"] for row in rows), strict=True))),
        )
        for number, rows in sorted(by_class.items())
    ]


def worst_class(rows: Sequence[ClassRow]) -> ClassRow:
    """The class with the lowest accuracy at the strongest strength, then on clean images."""
    return min(rows, key=lambda row: (row.accuracy[-1], row.accuracy[0]))


def rich_per_class(records: Sequence[Record]) -> Group:
    """Accuracy per class for the terminal: one table for each model.

    Args:
        records: Evaluations of models on the same images at the same strengths.

    Returns:
        Tables in percent; the class with the lowest accuracy at the strongest strength is bold.

    Raises:
        ValueError: If there is no record, or records differ in one of ``MUST_AGREE``.
    """
    check_comparable(records, "table of classes")
    records = apart_last(fullest(records))
    parts: list[Table | Text] = [Text("Accuracy per class", style="italic")]
    for model in dict.fromkeys(record["model"] for record in records):
        rows = class_rows([record for record in records if record["model"] == model])
        parts.append(Text(f"\n{marked_name(model, records)}", style="bold"))
        if not rows:
            parts.append(Text("Its record holds no classes; evaluate the model again."))
            continue
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        strengths = [f"ε {text}" for text in records[0]["epsilons_written"][1:]]
        for head in ("class", "images", "clean", *strengths):
            table.add_column(head, justify="right")
        for row in rows:
            cells = [f"{100 * accuracy:.1f}" for accuracy in row.accuracy]
            style = "bold" if row is worst_class(rows) else None
            table.add_row(str(row.number), str(row.images), *cells, style=style)
        parts.append(table)
    several = len(records) > len({record["model"] for record in records})
    parts.append(
        Text(
            "\nAccuracy in % on the images of each class, worst case per image."
            + (" Means over seeds." if several else "")
            + " Bold: the lowest at the strongest attack.",
            style="dim italic",
        )
    )
    return Group(*parts)
