"""A paper's table, published and measured, for the terminal and as Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table as RichTable

from equipoise.report.papers.entry import WORST, Column, Entry, Part, Row, Table
from equipoise.report.papers.measurements import Number, Result, Results, measure
from equipoise.report.papers.published import published_row, published_table
from equipoise.report.papers.scales import Scale, recipe_of
from equipoise.report.run_files import extractor_budgets
from equipoise.report.table import NONE, check_comparable

PUBLISHED = "published"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a table: published values of a model, or measured ones.

    Args:
        part: Part of the table that the line belongs to.
        label: Label of the model.
        source: ``"published"``, or the name of the reading.
        cells: One for each column; ``None`` where there is no value.
        starts_model: Whether the line is the first of its model.
    """

    part: Part
    label: str
    source: str
    cells: tuple[Number | float | None, ...]
    starts_model: bool = True


def table_lines(entry: Entry, scale: Scale, results: Results) -> list[Line]:
    """Make every line of a table.

    Args:
        entry: A table.
        scale: Scale of the measured values.
        results: Results by recipe.

    Returns:
        For each row, its published values if there are any, then one line for each reading if it
        was measured.

    Raises:
        ValueError: If records do not fit into one table.
    """
    table = _table(entry)
    lines: list[Line] = []
    for part in table.parts:
        records = [r.record for row in part.rows for r in _results(row, part, scale, results)]
        if records:
            check_comparable(records, entry.name)
        for row in part.rows:
            cells: dict[str, tuple[Number | float | None, ...]] = {}
            if published := _published(row, part, table.columns):
                cells[PUBLISHED] = published
            measured = _results(row, part, scale, results)
            for reading in table.readings if measured else ():
                values = tuple(measure(measured, column, reading) for column in table.columns)
                if not reading.as_printed or _has_attacks(values, table.columns):
                    cells[reading.name] = values
            lines += [
                Line(part=part, label=row.label, source=source, cells=values, starts_model=not n)
                for n, (source, values) in enumerate(cells.items())
            ]
    return lines


def _has_attacks(values: Sequence[Number | None], columns: Sequence[Column]) -> bool:
    """Whether an accuracy under attack is known; older records have none at one strength alone."""
    apart = ("parameters", "multiply-adds", WORST)  # WORST is shown for clean images alone
    pairs = zip(values, columns, strict=True)
    return any(value is not None and column.under not in apart for value, column in pairs)


def rich_entry(entry: Entry, scale: Scale, results: Results) -> RichTable:
    """Format a table for the terminal.

    Args:
        entry: A table.
        scale: Scale of the measured values.
        results: Results by recipe.

    Returns:
        A rich table; published lines are dim.
    """
    table = RichTable(
        title=f"{entry.paper}: {entry.title}",
        title_justify="left",
        caption=caption(entry, scale, results),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("", overflow="fold")
    table.add_column("", overflow="fold")
    for head in heads(entry, scale, results):
        table.add_column(head, justify="right")
    for line in table_lines(entry, scale, results):
        style = "dim" if line.source == PUBLISHED else None
        table.add_row(*_cells(line, entry), style=style)
    return table


def heads(entry: Entry, scale: Scale, results: Results) -> list[str]:
    """Heads of a table's columns; a strength that was measured at another value names it, too.

    Args:
        entry: A table.
        scale: Scale of the measured values.
        results: Results by recipe.
    """
    measured = [
        result
        for part in entry.parts()
        for row in part.rows
        for result in _results(row, part, scale, results)
    ]
    names = []
    for column in _table(entry).columns:
        others = _measured_strengths(column, measured)
        names.append(column.head + (f"/255 (measured: {', '.join(others)})" if others else ""))
    return names


def _measured_strengths(column: Column, results: Sequence[Result]) -> list[str]:
    """Strengths at which a column was measured, other than the one that its head names."""
    published = (column.published or "").split(" ")[-1]
    named = column.head.split(" ")[-1] == published.removesuffix("/255")
    if column.at is None or not (named and published.endswith("/255")):
        return []
    written = dict.fromkeys(r.record["epsilons_written"][column.at] for r in results)
    return [strength for strength in written if strength != published]


def markdown_entry(entry: Entry, scale: Scale, results: Results) -> str:
    """Format a table as Markdown, with its caption.

    Args:
        entry: A table.
        scale: Scale of the measured values.
        results: Results by recipe.

    Example:
        >>> from equipoise.report.papers import ENTRIES, SCALES
        >>> print(markdown_entry(ENTRIES["afs-table-5"], SCALES["tiny"], {}).splitlines()[2])
        | LBGAT+TRADES (cifar100) | published | 60.43 | 35.5 | 29.34 | 44.88 |
    """
    columns = heads(entry, scale, results)
    lines = ["|  |  | " + " | ".join(columns) + " |", "|---|---|" + "---:|" * len(columns)]
    for line in table_lines(entry, scale, results):
        lines.append(f"| {' | '.join(_cells(line, entry))} |")
    return "\n".join([*lines, "", caption(entry, scale, results)]) + "\n"


def csv_entry(entry: Entry, scale: Scale, results: Results) -> str:
    """Format a table as CSV, one line for each number.

    Args:
        entry: A table.
        scale: Scale of the measured values.
        results: Results by recipe.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["table", "data", "row", "source", "column", "value", "deviation", "seeds"])
    for line in table_lines(entry, scale, results):
        data = line.part.data if line.source == PUBLISHED else _measured_data(line, scale, results)
        row = next(row for row in line.part.rows if row.label == line.label)
        own = () if line.source == PUBLISHED else _results(row, line.part, scale, results)
        for column, cell in zip(_table(entry).columns, line.cells, strict=True):
            if isinstance(cell, Number):
                numbers = [cell.mean, cell.spread, cell.seeds]
            elif cell is not None:
                numbers = [cell, None, None]
            else:
                continue
            strengths = _measured_strengths(column, own)
            head = column.head
            if strengths:
                head = f"{head.rpartition(' ')[0]} {strengths[0]}"
            writer.writerow([entry.name, data, line.label, line.source, head, *numbers])
    return stream.getvalue()


def latex_entry(entry: Entry, scale: Scale, results: Results) -> str:
    """Format a table as LaTeX, for the package booktabs.

    Args:
        entry: A table.
        scale: Scale of the measured values.
        results: Results by recipe.
    """
    columns = heads(entry, scale, results)
    rows: list[str] = []
    for line in table_lines(entry, scale, results):
        space = "\\addlinespace\n" if rows and line.starts_model else ""
        rows.append(f"{space}{' & '.join(map(_escaped, _cells(line, entry)))} \\\\")
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_escaped(entry.title)}. {_escaped(caption(entry, scale, results))}}}",
            r"\begin{tabular}{ll" + "r" * len(columns) + "}",
            r"\toprule",
            " & & " + " & ".join(map(_escaped, columns)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def caption(entry: Entry, scale: Scale, results: Results) -> str:
    """Caption of a table or figure: what the published and the measured numbers are.

    Args:
        entry: A table or figure.
        scale: Scale of the measured values.
        results: Results by recipe.
    """
    sentences = []
    for part in entry.parts():
        if part.source is not None:
            sentences.append(f"Published: {published_as(part)}.")
        measured = [r for row in part.rows for r in _results(row, part, scale, results)]
        if measured:
            low = not entry.needs_models() and _low_precision(measured)
            precision = "; attacks searched in bfloat16, scored in float32" if low else ""
            sentences.append(f"Measured: {measured_as(measured)}{precision}.")
            missing = [row.label for row in part.rows if _is_missing(row, part, scale, results)]
            if missing:
                sentences.append(f"Not reproduced yet: {', '.join(missing)}.")
        else:
            sentences.append(f"Not measured at scale {scale.name}: {part.data}.")
    limit = "" if scale.epochs is None else f" At most {scale.epochs} epochs per stage."
    return " ".join([*sentences, scale.note + limit, entry.note])


def published_as(part: Part) -> str:
    """Describe published values: source, data, network and attack."""
    assert part.source is not None
    table = published_table(part.source, part.data)
    return f"{part.source}; {part.data}, {table['network']}, {table['attack']}, in %"


def measured_as(results: Sequence[Result]) -> str:
    """Describe measured values: data, images, network, epochs and seeds."""
    record = results[0].record
    networks = sorted({_network(result) for result in results})
    epochs = sorted({result.recipe["method"]["schedule"]["epochs"] for result in results})
    seeds = sorted({result.record["training_seed"] for result in results})
    stacks = [r.recipe["method"] for r in results if r.recipe["method"].get("kind") == "AFS"]
    budgets = {", ".join(extractor_budgets({**method, "mask": None})) for method in stacks}
    alphas = {method["alpha"] for method in stacks}
    return (
        f"{record['data']}, {record['images']} {record['part']} images, {' and '.join(networks)}, "
        f"{' and '.join(map(str, epochs))} epochs, strongest ε {record['epsilons_written'][-1]}, "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        + ("; mean (standard deviation) over seeds" if len(seeds) > 1 else "")
        + "".join(f"; AFS with budgets {text}" for text in budgets if len(budgets) == 1)
        + "".join(f"; α = {alpha:g}" for alpha in alphas if len(alphas) == 1)
    )


def cell_text(cell: Number | float | None, digits: int = 1) -> str:
    """Format a cell.

    Args:
        cell: A measured number, or a published value, whose decimals are kept.
        digits: Decimals of a measured number.

    Returns:
        The number, with its deviation in parentheses if it has one; a dash for ``None``.
    """
    if cell is None:
        return NONE
    if not isinstance(cell, Number):
        return str(cell)
    spread = "" if cell.spread is None else f" ({cell.spread:.{digits}f})"
    return f"{cell.mean:.{digits}f}{spread}"


def _table(entry: Entry) -> Table:
    assert isinstance(entry.content, Table)
    return entry.content


def _cells(line: Line, entry: Entry) -> list[str]:
    """Label, source and numbers; the label only on the first line of a model."""
    label = line.label if line.part.data == "cifar10" else f"{line.label} ({line.part.data})"
    pairs = zip(line.cells, _table(entry).columns, strict=True)
    numbers = [cell_text(cell, column.digits) for cell, column in pairs]
    return [label if line.starts_model else "", line.source, *numbers]


def _results(row: Row, part: Part, scale: Scale, results: Results) -> Sequence[Result]:
    name = recipe_of(row, part, scale)
    return results.get(name, ()) if name is not None else ()


def _is_missing(row: Row, part: Part, scale: Scale, results: Results) -> bool:
    """Whether a row could be measured at this scale and was not."""
    return recipe_of(row, part, scale) not in {None, *results}


def _low_precision(results: Sequence[Result]) -> bool:
    precisions = {result.record.get("search_precision", "32-true") for result in results}
    return precisions != {"32-true"}


def _published(row: Row, part: Part, columns: Sequence[Column]) -> tuple[float | None, ...]:
    """Published cells of a row; empty if there are none."""
    values = published_row(part.source, part.data, row.label) if part.source is not None else {}
    if not values:
        return ()
    return tuple(values.get(c.published) if c.published else None for c in columns)


def _measured_data(line: Line, scale: Scale, results: Results) -> str:
    row = next(row for row in line.part.rows if row.label == line.label)
    data: str = _results(row, line.part, scale, results)[0].record["data"]
    return data


def _network(result: Result) -> str:
    network = result.recipe["network"]
    kind = network["kind"].removesuffix("Shape")
    if kind == "WideResNet":
        return f"WRN-{network['depth']}-{network['width']}"
    return f"{kind}-{network['depth']}" if "depth" in network else kind


_LATEX = str.maketrans(
    {
        "ε": r"$\epsilon$",
        "α": r"$\alpha$",
        "κ": r"$\kappa$",
        "–": "--",
        "%": r"\%",
        "&": r"\&",
        "#": r"\#",
        "_": r"\_",
    }
)


def _escaped(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return text.translate(_LATEX)
