"""Definition of a paper's table or figure: its rows, its columns, and the attacks it shows."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

WORST = "worst case"
SMALL = ("tiny", "compact")
SURROGATE = "surrogate"
"""Label of the network on which a figure's images are made; it has no curve of its own."""
FORMATS = ("svg", "png", "pdf")
"""File formats in which figures are written."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model of a table or figure.

    Args:
        label: Label in the paper and in the published values.
        recipe: Name of the recipe with ``{}`` for data and scale, such as ``"afa_trades_{}"``;
            ``None`` for a row that is only published.
        scales: Scales at which the row is measured; all by default.
    """

    label: str
    recipe: str | None = None
    scales: tuple[str, ...] = ("tiny", "compact", "paper")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table.

    Args:
        head: Heading of the column.
        published: Key of the published value; ``None`` where the paper has no such column.
        under: Attack, suite or quantity that is measured: the name of an attack, ``"adaptive"``,
            ``"transfer"``, ``WORST``, ``"parameters"``, ``"multiply-adds"`` or ``"trade-off"``;
            ``None`` for the attack of the table's reading.
        at: Index of the strength, 0 for clean; ``None`` for the mean over all strengths.
        digits: Decimals of measured values.
    """

    head: str
    published: str | None
    under: str | None = None
    at: int | None = -1
    digits: int = 1


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One way to measure what the paper printed: with the same attack, or as the worst case.

    Args:
        name: Label in the table.
        under: Attack of columns that name none.
        as_printed: Whether attacks are measured as the papers' tables do: at one strength alone,
            and the adaptive attack at the one ratio that is worst for the whole set.
    """

    name: str
    under: str
    as_printed: bool = False


SAME = Reading(name="measured, PGD-20", under="pgd-20")
WORST_CASE = Reading(name="measured, worst case", under=WORST)
MEASURED = Reading(name="measured", under=WORST)
AS_PRINTED = Reading(name="measured, as printed", under=WORST, as_printed=True)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of a table that share a data set.

    Args:
        data: The paper's data set, named as in the published values.
        rows: The models.
        source: Source of the published values; ``None`` for a figure that shows none.
        stand_in: Data set that is measured instead at scales without ``data``; if ``None``, only
            published values are shown there.
    """

    data: str
    rows: tuple[Row, ...]
    source: str | None = None
    stand_in: str | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a paper.

    Args:
        parts: Rows, by data set.
        columns: Columns.
        readings: Ways to measure each row; one line for each below the published one.
    """

    parts: tuple[Part, ...]
    columns: tuple[Column, ...]
    readings: tuple[Reading, ...] = (SAME, WORST_CASE)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of a paper.

    Args:
        part: Models, and the source of published values that are shown with them, if any.
        drawn_by: Module and function in this package that draw it, such as
            ``"line_figures.fusing_weights"``. The module is imported when the figure is drawn,
            since it needs matplotlib.
        needs: Data computed from the models beyond their records: a key of
            ``equipoise.reproduce.figure_data.KINDS``; ``None`` if records are enough.
        optional: Whether the figure is drawn without these data while a model is missing.
    """

    part: Part
    drawn_by: str
    needs: str | None = None
    optional: bool = False

    def draw(self, drawing: Any) -> Any:
        """Draw the figure with matplotlib.

        Args:
            drawing: A ``Drawing`` with the figure's values.

        Returns:
            A matplotlib figure.
        """
        module, function = self.drawn_by.split(".")
        draw: Callable[[Any], Any] = getattr(
            import_module(f"equipoise.report.papers.{module}"), function
        )
        return draw(drawing)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One table or figure that ``equipoise reproduce`` makes.

    Args:
        name: Name on the command line, such as ``"afa-table-1"``.
        paper: Name in print, such as ``"AFA Table 1"``.
        title: What it shows.
        note: How our version differs from the paper's, beyond scale and data.
        content: The table or figure.
    """

    name: str
    paper: str
    title: str
    note: str
    content: Table | Figure

    def parts(self) -> tuple[Part, ...]:
        """Rows, by data set."""
        return self.content.parts if isinstance(self.content, Table) else (self.content.part,)

    def needs_models(self) -> bool:
        """Whether it is a figure computed from the models themselves, not from records alone."""
        figure = self.content
        return isinstance(figure, Figure) and figure.needs is not None and not figure.optional

    def suites_apart(self) -> tuple[str, ...]:
        """Suites that it shows and that are evaluated in a record of their own.

        ``"ratios"`` runs fourteen attacks on every image, which only one column needs.
        """
        if isinstance(self.content, Figure) or "adaptive" not in self.under():
            return ()
        printed = any(reading.as_printed for reading in self.content.readings)
        return ("ratios",) if printed else ()

    def under(self) -> set[str]:
        """Every attack, suite or quantity that it shows."""
        if isinstance(self.content, Figure):
            return set()
        readings = {reading.under for reading in self.content.readings}
        return readings | {column.under for column in self.content.columns if column.under}
