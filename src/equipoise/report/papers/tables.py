"""A paper's table, published and measured, for the terminal, Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table as RichTable

from equipoise.report.papers.entry import Column, Entry, Part, Row, Table
from equipoise.report.papers.measurements import Number, Result, Results, measure
from equipoise.report.papers.published import published_row, published_table
from equipoise.report.papers.scales import Scale, recipe_of
from equipoise.report.run_files import budgets_of
from equipoise.report.table import check_comparable

NONE = "–"
PUBLISHED = "published"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a table: a model's published values, or its measured ones.

    Args:
        part: Where it stands.
        label: The model.
        source: ``"published"``, or the reading's name.
        cells: One a column; ``None`` where there is no value.
    """

    part: Part
    label: str
    source: str
    cells: tuple[Number | float | None, ...]


def lines(entry: Entry, scale: Scale, results: Results) -> list[Line]:
    """Every line of a table.

    Args:
        entry: A table.
        scale: Where its measured values were made.
        results: By recipe.

    Returns:
        For each row, its published values if there are some, then one line a reading if it was
        measured.

    Raises:
        ValueError: If records do not fit into one table.
    """
    table = entry.content
    assert isinstance(table, Table)
    found = []
    for part in table.parts:
        records = [r.record for row in part.rows for r in _results(row, part, scale, results)]
        if records:
            check_comparable(records, entry.name)
        for row in part.rows:
            found += list(_published(row, part, table.columns))
            mine = _results(row, part, scale, results)
            for reading in table.readings if mine else ():
                cells = tuple(measure(mine, column, reading) for column in table.columns)
                found.append(Line(part=part, label=row.label, source=reading.name, cells=cells))
    return found


def rich_entry(entry: Entry, scale: Scale, results: Results) -> RichTable:
    """A table for the terminal.

    Args:
        entry: A table.
        scale: Where its measured values were made.
        results: By recipe.

    Returns:
        A rich table; measured lines are bold, published ones dim.
    """
    assert isinstance(entry.content, Table)
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
    for column in entry.content.columns:
        table.add_column(column.head, justify="right")
    for line, first in _firsts(lines(entry, scale, results)):
        style = "dim" if line.source == PUBLISHED else None
        label = _place(line) if first else ""
        table.add_row(label, line.source, *_texts(line, entry.content), style=style)
    return table


def markdown(entry: Entry, scale: Scale, results: Results) -> str:
    """A table as Markdown, with its caption.

    Args:
        entry: A table.
        scale: Where its measured values were made.
        results: By recipe.
    """
    assert isinstance(entry.content, Table)
    heads = [column.head for column in entry.content.columns]
    found = [
        [_place(line) if first else "", line.source, *_texts(line, entry.content)]
        for line, first in _firsts(lines(entry, scale, results))
    ]
    rows = [f"| {' | '.join(cells)} |" for cells in found]
    head = ["|  |  | " + " | ".join(heads) + " |", "|---|---|" + "---:|" * len(heads)]
    return "\n".join([*head, *rows, "", caption(entry, scale, results)]) + "\n"


def comma_separated(entry: Entry, scale: Scale, results: Results) -> str:
    """A table as CSV, one line a number.

    Args:
        entry: A table.
        scale: Where its measured values were made.
        results: By recipe.
    """
    assert isinstance(entry.content, Table)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["table", "data", "row", "source", "column", "value", "deviation", "seeds"])
    for line in lines(entry, scale, results):
        data = line.part.data if line.source == PUBLISHED else _measured_data(line, scale, results)
        for column, cell in zip(entry.content.columns, line.cells, strict=True):
            if isinstance(cell, Number):
                numbers = [cell.mean, cell.spread, cell.seeds]
            elif cell is not None:
                numbers = [cell, None, None]
            else:
                continue
            writer.writerow([entry.name, data, line.label, line.source, column.head, *numbers])
    return stream.getvalue()


def latex(entry: Entry, scale: Scale, results: Results) -> str:
    """A table as LaTeX, for the package booktabs.

    Args:
        entry: A table.
        scale: Where its measured values were made.
        results: By recipe.
    """
    assert isinstance(entry.content, Table)
    heads = [column.head for column in entry.content.columns]
    rows = [
        ("" if not first or number == 0 else "\\addlinespace\n")
        + " & ".join(
            [
                _tex(_place(line)) if first else "",
                _tex(line.source),
                *map(_tex, _texts(line, entry.content)),
            ]
        )
        + r" \\"
        for number, (line, first) in enumerate(_firsts(lines(entry, scale, results)))
    ]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_tex(entry.title)}. {_tex(caption(entry, scale, results))}}}",
            r"\begin{tabular}{ll" + "r" * len(heads) + "}",
            r"\toprule",
            " & & " + " & ".join(map(_tex, heads)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def caption(entry: Entry, scale: Scale, results: Results) -> str:
    """What the published numbers are of, what the measured ones are of, and what differs.

    Args:
        entry: A table or figure.
        scale: Where its measured values were made.
        results: By recipe.
    """
    sentences = []
    for part in entry.parts():
        if part.source is not None:
            sentences.append(f"Published: {published_as(part)}.")
        mine = [r for row in part.rows for r in _results(row, part, scale, results)]
        if mine:
            low = not entry.looks_inside() and _searched_low(mine)
            searched = "; attacks searched in bfloat16, scored in float32" if low else ""
            sentences.append(f"Measured: {measured_as(mine)}{searched}.")
            left = [row.label for row in part.rows if _waits(row, part, scale, results)]
            if left:
                sentences.append(f"Not made yet: {', '.join(left)}.")
        else:
            sentences.append(f"Nothing at scale {scale.name} stands for {part.data}.")
    cut = "" if scale.epochs is None else f" At most {scale.epochs} epochs a stage."
    return " ".join([*sentences, scale.note + cut, entry.note])


def published_as(part: Part) -> str:
    """Source, data, network and attack of published values, in words."""
    assert part.source is not None
    table = published_table(part.source, part.data)
    return f"{part.source}; {part.data}, {table['network']}, {table['attack']}, in %"


def measured_as(results: Sequence[Result]) -> str:
    """Data, images, network, epochs and seeds of measured values, in words."""
    record = results[0].record
    networks = sorted({_network(result) for result in results})
    epochs = sorted({result.recipe["method"]["schedule"]["epochs"] for result in results})
    seeds = sorted({result.record["training_seed"] for result in results})
    stacks = [r.recipe["method"] for r in results if r.recipe["method"].get("kind") == "AFS"]
    budgets = {", ".join(budgets_of({**method, "mask": None})) for method in stacks}
    alphas = {method["alpha"] for method in stacks}
    return (
        f"{record['data']}, {record['images']} {record['part']} images, {' and '.join(networks)}, "
        f"{' and '.join(map(str, epochs))} epochs, strongest ε {record['epsilons_written'][-1]}, "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        + ("; mean (standard deviation) over them" if len(seeds) > 1 else "")
        + "".join(f"; AFS of budgets {each}" for each in budgets if len(budgets) == 1)
        + "".join(f"; α = {each:g}" for each in alphas if len(alphas) == 1)
    )


def text(cell: Number | float | None, digits: int = 1) -> str:
    """A cell.

    Args:
        cell: A published value is shown with its decimals, but for zeros at the end.
        digits: Decimals of a measured one.

    Returns:
        The number, with its deviation in parentheses if it has one; a dash for nothing.
    """
    if cell is None:
        return NONE
    if not isinstance(cell, Number):
        return str(cell)
    spread = "" if cell.spread is None else f" ({cell.spread:.{digits}f})"
    return f"{cell.mean:.{digits}f}{spread}"


def _texts(line: Line, table: Table) -> list[str]:
    pairs = zip(line.cells, table.columns, strict=True)
    return [text(cell, column.digits) for cell, column in pairs]


def _results(row: Row, part: Part, scale: Scale, results: Results) -> Sequence[Result]:
    name = recipe_of(row, part, scale)
    return results.get(name, ()) if name is not None else ()


def _waits(row: Row, part: Part, scale: Scale, results: Results) -> bool:
    """Whether a row could be measured at this scale and was not."""
    return recipe_of(row, part, scale) not in {None, *results}


def _searched_low(results: Sequence[Result]) -> bool:
    precisions = {result.record.get("search_precision", "32-true") for result in results}
    return precisions != {"32-true"}


def _published(row: Row, part: Part, columns: Sequence[Column]) -> Iterator[Line]:
    values = published_row(part.source, part.data, row.label) if part.source is not None else {}
    if values:
        cells = tuple(values.get(c.published) if c.published else None for c in columns)
        yield Line(part=part, label=row.label, source=PUBLISHED, cells=cells)


def _firsts(found: Sequence[Line]) -> Iterator[tuple[Line, bool]]:
    """Lines, and whether each is the first of its model."""
    last: tuple[Part, str] | None = None
    for line in found:
        yield line, (line.part, line.label) != last
        last = (line.part, line.label)


def _place(line: Line) -> str:
    return line.label if line.part.data == "cifar10" else f"{line.label} ({line.part.data})"


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


_TEX = str.maketrans(
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


def _tex(words: str) -> str:
    return words.translate(_TEX)
