"""Write an entry's files, and one page with all of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equipoise.report.papers import tables
from equipoise.report.papers.entry import Entry, Figure
from equipoise.report.papers.measurements import Results
from equipoise.report.papers.published import published_row
from equipoise.report.papers.scales import Scale, recipe_of
from equipoise.report.papers.style import Drawing, styled, write_figure
from equipoise.runtime.files import write_bytes

INDEX = "README.md"


def write_entry(
    entry: Entry, scale: Scale, results: Results, data: Sequence[Any], folder: Path
) -> list[Path]:
    """Write a table as Markdown, CSV and LaTeX, or a figure as SVG, PNG and PDF with its caption.

    Args:
        entry: The table or figure.
        scale: Where its measured values were made.
        results: By recipe.
        data: What a figure needs beyond records, one a seed.
        folder: Gets the files, named like the entry.

    Returns:
        The files.

    Raises:
        RunError: If one cannot be written.
        ValueError: If records do not fit together.
    """
    place = folder / entry.name
    if isinstance(entry.content, Figure):
        with styled():
            written = write_figure(
                entry.content.draw(drawing_of(entry, scale, results, data)), place
            )
        texts = {"md": f"![{entry.title}]({place.name}.svg)\n\n{_caption(entry, scale, results)}"}
    else:
        written = []
        texts = {
            "md": tables.markdown(entry, scale, results),
            "csv": tables.comma_separated(entry, scale, results),
            "tex": tables.latex(entry, scale, results),
        }
    for kind, content in texts.items():
        path = place.with_name(f"{place.name}.{kind}")
        write_bytes(path, content.encode())
        written.append(path)
    return written


def write_index(entries: Sequence[Entry], scale: Scale, folder: Path) -> Path:
    """Write one page with the tables and figures whose files are in a folder.

    Args:
        entries: In the page's order; those without a file are left out.
        scale: Named in the head.
        folder: Where the files are.

    Returns:
        The page.

    Raises:
        RunError: If it cannot be written.
    """
    blocks = [f"# Both papers again, at scale {scale.name}\n"]
    for entry in entries:
        path = folder / f"{entry.name}.md"
        if path.exists():
            blocks.append(f"## {entry.paper}: {entry.title}\n\n{path.read_text('utf-8')}")
    write_bytes(folder / INDEX, "\n".join(blocks).encode())
    return folder / INDEX


def drawing_of(entry: Entry, scale: Scale, results: Results, data: Sequence[Any]) -> Drawing:
    """What a figure is drawn from.

    Args:
        entry: The figure.
        scale: Where its measured values were made.
        results: By recipe.
        data: What it needs beyond records, one a seed.

    Returns:
        Measured and published values, in the figure's order.
    """
    (part,) = entry.parts()
    measured, published = {}, {}
    for row in part.rows:
        name = recipe_of(row, part, scale)
        if name is not None and name in results:
            measured[row.label] = results[name]
        values = published_row(part.source, part.data, row.label) if part.source else {}
        if values:
            published[row.label] = values
    first = next(iter(measured.values()))[0].record
    return Drawing(
        measured=measured,
        published=published,
        published_as=f"published: {part.data}",
        measured_as=f"measured: {first['data']}, scale {scale.name}",
        data=data,
    )


def _caption(entry: Entry, scale: Scale, results: Results) -> str:
    return tables.caption(entry, scale, results) + "\n"
