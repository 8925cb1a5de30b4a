"""What a table or figure of a paper is made of: rows, columns, and which attack is meant."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WORST = "worst case"
SMALL = ("tiny", "compact")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model of a table or figure.

    Args:
        label: As the paper has it, and as the published values call it.
        recipe: The recipe's name with ``{}`` for data and scale, such as ``"afa_trades_{}"``;
            ``None`` for a row that is only published.
        scales: Where it is measured; everywhere by default.
    """

    label: str
    recipe: str | None = None
    scales: tuple[str, ...] = ("tiny", "compact", "paper")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table.

    Args:
        head: Its head.
        published: Key of the published value; ``None`` where the paper has no such column.
        under: The attack, suite or quantity that is measured: an attack's name, ``"adaptive"``,
            ``"transfer"``, ``WORST``, ``"parameters"``, ``"multiply-adds"`` or ``"trade-off"``;
            ``None`` for that of the table's reading.
        at: Place among the strengths, 0 for clean; ``None`` for the mean over all.
        digits: Decimals of measured values.
    """

    head: str
    published: str | None
    under: str | None = None
    at: int | None = -1
    digits: int = 1


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One way to measure what the paper printed: by the same attack, or by the worst case.

    Args:
        name: Printed beside its numbers.
        under: The attack of columns that name none.
    """

    name: str
    under: str


SAME = Reading(name="measured, PGD-20", under="pgd-20")
SUREST = Reading(name="measured, worst case", under=WORST)
MEASURED = Reading(name="measured", under=WORST)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of a table that share their data set.

    Args:
        data: The paper's data set, as the published values call it.
        rows: The models.
        source: Where the published values come from; ``None`` for a figure that prints none.
        stand_in: The data set that is measured where the scale has nothing for ``data``; without
            one, the published values stand alone there.
    """

    data: str
    rows: tuple[Row, ...]
    source: str | None = None
    stand_in: str | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a paper.

    Args:
        parts: Its rows, by data set.
        columns: Its columns.
        readings: How each row is measured; one line each below the published one.
    """

    parts: tuple[Part, ...]
    columns: tuple[Column, ...]
    readings: tuple[Reading, ...] = (SAME, SUREST)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of a paper.

    Args:
        part: Its models, and the published values that stand beside them, if any.
        draw: Draws it: called with a ``Drawing``, returns a matplotlib figure.
        needs: What is computed from the models beyond their records: a name in
            ``equipoise.reproduce.figure_data.KINDS``; ``None`` if records are enough.
    """

    part: Part
    draw: Callable[[Any], Any]
    needs: str | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One table or figure, as ``equipoise reproduce`` names it.

    Args:
        name: Such as ``"afa-table-1"``.
        paper: As it is called in print.
        title: What it shows.
        note: What our version does otherwise, beyond scale and data.
        content: The table or figure.
    """

    name: str
    paper: str
    title: str
    note: str
    content: Table | Figure

    def parts(self) -> tuple[Part, ...]:
        """Its rows, by data set."""
        return self.content.parts if isinstance(self.content, Table) else (self.content.part,)

    def looks_inside(self) -> bool:
        """Whether it is a figure of the models themselves, and not of their records alone."""
        return isinstance(self.content, Figure) and self.content.needs is not None

    def under(self) -> set[str]:
        """Every attack, suite or quantity that it shows."""
        if isinstance(self.content, Figure):
            return set()
        readings = {reading.under for reading in self.content.readings}
        return readings | {column.under for column in self.content.columns if column.under}
