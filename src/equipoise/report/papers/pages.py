"""Write the files of tables and figures, and one page that shows all of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equipoise.report.extras import report_extra
from equipoise.report.papers import tables
from equipoise.report.papers.entry import Entry, Figure
from equipoise.report.papers.measurements import Drawing, Results
from equipoise.report.papers.published import published_row
from equipoise.report.papers.scales import Scale, recipe_of
from equipoise.runtime.files import write_bytes

INDEX = "README.md"


def write_entry(
    entry: Entry, scale: Scale, results: Results, data: Sequence[Any], folder: Path
) -> list[Path]:
    """Write a table as Markdown, CSV and LaTeX, or a figure as SVG, PNG and PDF with its caption.

    Args:
        entry: The table or figure.
        scale: Scale of the measured values.
        results: Results by recipe.
        data: Data of a figure beyond records, one item for each seed.
        folder: Folder of the files, which are named like the entry.

    Returns:
        The files.

    Raises:
        RunError: If matplotlib is not installed, or a file cannot be written.
        ValueError: If records do not fit into one table.

    Example:
        >>> import tempfile
        >>> from equipoise.report.papers import ENTRIES, SCALES
        >>> folder = Path(tempfile.mkdtemp())
        >>> files = write_entry(ENTRIES["afs-table-5"], SCALES["tiny"], {}, [], folder)
        >>> [file.name for file in files]
        ['afs-table-5.md', 'afs-table-5.csv', 'afs-table-5.tex']
    """
    path = folder / entry.name
    files: list[Path] = []
    if isinstance(entry.content, Figure):
        with report_extra("a figure file"):
            from equipoise.report.papers.style import styled, write_figure
        with styled():
            drawn = entry.content.draw(drawing_of(entry, scale, results, data))
            files += write_figure(drawn, path)
        caption = tables.caption(entry, scale, results)
        texts = {"md": f"![{entry.title}]({path.name}.svg)\n\n{caption}\n"}
    else:
        texts = {
            "md": tables.markdown_entry(entry, scale, results),
            "csv": tables.csv_entry(entry, scale, results),
            "tex": tables.latex_entry(entry, scale, results),
        }
    for kind, content in texts.items():
        file = path.with_name(f"{path.name}.{kind}")
        write_bytes(file, content.encode())
        files.append(file)
    return files


def write_index(entries: Sequence[Entry], scale: Scale, folder: Path) -> Path:
    """Write one page with the tables and figures whose files are in a folder.

    Args:
        entries: Entries in the page's order; those without a file are left out.
        scale: Scale, named in the title.
        folder: Folder of the files.

    Returns:
        The page.

    Raises:
        RunError: If it cannot be written.
    """
    blocks = [f"# Reproduced tables and figures, scale {scale.name}\n"]
    for entry in entries:
        path = folder / f"{entry.name}.md"
        if path.exists():
            blocks.append(f"## {entry.paper}: {entry.title}\n\n{path.read_text('utf-8')}")
    write_bytes(folder / INDEX, "\n".join(blocks).encode())
    return folder / INDEX


def drawing_of(entry: Entry, scale: Scale, results: Results, data: Sequence[Any]) -> Drawing:
    """Collect the values of a figure.

    Args:
        entry: The figure.
        scale: Scale of the measured values.
        results: Results by recipe.
        data: Data beyond records, one item for each seed.

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
