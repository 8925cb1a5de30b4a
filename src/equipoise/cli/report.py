"""The commands ``equipoise report`` and ``equipoise compare``."""

from pathlib import Path
from typing import Any

from equipoise.cli.options import Records, Suites, console


def report(
    records: Records,
    suite: Suites | None = None,
    into: Path | None = None,
    out: Path | None = None,
    gallery: int = 0,
    data: Path | None = None,
    trust: tuple[str, ...] = (),
) -> None:
    """Print one table from records, write a page or a picture, or renew tables in a Markdown file.

    Args:
        records: Record files, or folders that hold some.
        suite: Show this suite attack by attack as well.
        into: A Markdown file with `<!-- records: FOLDER -->` markers; every table in it is renewed.
        out: Write one self-contained HTML page to this file, or the curves alone to a .svg, .png
            or .pdf.
        gallery: First make pictures of so many attacked images with the models beside the records,
            for the page.
        data: Folder of the data set for those pictures, if it lies elsewhere here.
        trust: Modules whose code may be run to build a model for them that is not Equipoise's own.
    """
    from equipoise.report import fill_markers, rich_checks, rich_columns, rich_table

    if gallery and out is None:
        raise ValueError("--gallery makes pictures for a page; name the page with --out.")
    if into is not None:
        changed = fill_markers(into)
        console.print(
            f"{into} {'renewed' if changed else 'was up to date'}.", highlight=False, soft_wrap=True
        )
    pairs = _records(records)
    found = [record for _, record in pairs]
    if found:
        console.print(rich_table(found, "Worst case per image"))
        if suite is not None:
            console.print(rich_columns(found, "Attack by attack", suite))
        console.print(rich_checks(*found))
        if gallery:
            from equipoise.models.io.trust import trusting
            from equipoise.workflows.gallery import write_galleries

            with trusting(*trust):
                write_galleries(pairs, gallery, data)
        if out is not None:
            from equipoise.report.curves_figure import ENDINGS, write_curves
            from equipoise.report.html.page import write_page

            if out.suffix in ENDINGS:
                write_curves(found, out)
            else:
                write_page(pairs, out)
            kind = "curves" if out.suffix in ENDINGS else "page"
            console.print(f"{kind}: {out}", highlight=False, soft_wrap=True)
    elif into is None:
        raise ValueError("report found no record; name record files or a folder that holds some.")


def compare(records: Records) -> None:
    """Compare models image by image: is one better than the first, or not told apart?

    Args:
        records: Record files, or folders that hold some. All others are compared with the first, so
            name the baseline first.
    """
    from equipoise.report import rich_comparison

    title = "Compared image by image with the first"
    console.print(rich_comparison([record for _, record in _records(records)], title))


def _records(places: tuple[Path, ...]) -> list[tuple[Path, dict[str, Any]]]:
    from equipoise.records.files import iterate_records, read_record

    found: list[tuple[Path, dict[str, Any]]] = []
    for place in places:
        if place.is_dir():
            found += iterate_records(place)
        else:
            found.append((place, read_record(place)))
    return found
