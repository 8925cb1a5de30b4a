"""The commands ``equipoise report`` and ``equipoise compare``."""

from pathlib import Path
from typing import Annotated, Any

from equipoise.cli.options import (
    Data,
    Number,
    Records,
    Switch,
    Trust,
    console,
    optional,
    print_line,
)
from equipoise.runtime.errors import InvalidInput


def report(
    records: Records,
    *,
    suite: Annotated[str | None, optional("SUITE")] = None,
    per_class: Switch = False,
    into: Annotated[Path | None, optional("FILE.md")] = None,
    out: Annotated[Path | None, optional("FILE")] = None,
    gallery: Number = 0,
    data: Data = None,
    trust: Trust = (),
) -> None:
    """Print a table of records, write an HTML page or a figure, or update tables in Markdown.

    Args:
        records: Record files, or folders that contain records.
        suite: Also show this suite attack by attack.
        per_class: Also show the accuracy of each class.
        into: Update every table between `<!-- records: FOLDER -->` markers in this Markdown file.
        out: Write a self-contained HTML page to this file, or only the curves if it ends in .svg,
            .png or .pdf.
        gallery: Show N attacked images per model on the page; the models must be next to their
            records.
        data: Folder or file of the data set for those images, if it is elsewhere on this machine.
        trust: Modules whose code may run to build a model that is not Equipoise's own.
    """
    if gallery and out is None:
        raise InvalidInput("--gallery shows images on an HTML page; name the page with --out.")
    if into is not None:
        from equipoise.report import fill_markers

        print_line(f"{into} {'updated' if fill_markers(into) else 'was up to date'}.")
    pairs = _read(records)
    if not pairs and into is None:
        raise InvalidInput("report found no records; name record files or a folder with records.")
    if not pairs:
        return
    _print_tables([record for _, record in pairs], suite, per_class=per_class)
    if gallery:
        from equipoise.api.gallery import write_galleries
        from equipoise.runtime.trust import trusting

        with trusting(*trust):
            write_galleries(pairs, gallery, data)
    if out is not None:
        _write(pairs, out)


def compare(records: Records) -> None:
    """Compare models with the first one, image by image, and test whether they differ.

    Args:
        records: Record files, or folders that contain records. Name the baseline first.
    """
    from equipoise.report import rich_comparison

    title = "Compared image by image with the first"
    console.print(rich_comparison([record for _, record in _read(records)], title))


def _print_tables(records: list[dict[str, Any]], suite: str | None, *, per_class: bool) -> None:
    from equipoise.report import rich_checks, rich_columns, rich_per_class, rich_table

    console.print(rich_table(records, "Worst case per image"))
    if suite is not None:
        console.print(rich_columns(records, "Attack by attack", suite))
    if per_class:
        console.print(rich_per_class(records))
    console.print(rich_checks(*records))


def _write(pairs: list[tuple[Path, dict[str, Any]]], out: Path) -> None:
    from equipoise.report.curves_figure import ENDINGS, write_curves
    from equipoise.report.html.page import write_page

    if out.suffix in ENDINGS:
        write_curves([record for _, record in pairs], out)
        print_line(f"curves: {out}")
    else:
        write_page(pairs, out)
        print_line(f"page: {out}")


def _read(paths: tuple[Path, ...]) -> list[tuple[Path, dict[str, Any]]]:
    from equipoise.records.files import iterate_records, read_record

    records: list[tuple[Path, dict[str, Any]]] = []
    for path in paths:
        found = list(iterate_records(path)) if path.is_dir() else [(path, read_record(path))]
        if not found:
            raise InvalidInput(
                f"{path} has no record; evaluate the model first, with `equipoise evaluate {path}`."
            )
        records += found
    return records
