"""Update tables between markers in Markdown files from records."""

import re
from collections.abc import Callable
from pathlib import Path

from equipoise.records.files import iterate_records
from equipoise.report.autoattack_table import autoattack_table
from equipoise.report.columns import markdown_columns
from equipoise.report.record import Record
from equipoise.report.speed_table import speed_table
from equipoise.report.table import markdown_table, ranked
from equipoise.runtime.errors import InvalidInput, RunError
from equipoise.runtime.files import read_json, write_bytes


def fill_markers(path: Path) -> bool:
    """Update every table between markers in a Markdown file.

    ``<!-- KIND: SOURCE -->`` begins a table and ``<!-- end KIND -->`` ends it. Paths are relative
    to the file.

    - ``records: FOLDER``: headline table of all records under the folder. Options may follow:
      ``ranked`` sorts models by ``reliability.RANKING_RULE``, the best first; ``short`` leaves out
      the column of the first suite.
    - ``attacks: FOLDER SUITE``: one column for each attack of a suite.
    - ``benchmark: RECORD.json ...``: speed table. ``RECORD.json#0,2`` takes only those comparisons
      of a record, counted from 0.
    - ``autoattack: RECORD.json``: our suites compared with AutoAttack.

    Args:
        path: The Markdown file, rewritten atomically if a table changed.

    Returns:
        Whether the file changed.

    Raises:
        RunError: If the file or a record cannot be read.
        ValueError: If a folder holds no record, no record has the suite, or a benchmark holds no
            comparison.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "page.md").write_text("No markers, so nothing to update.")
        >>> fill_markers(folder / "page.md")
        False
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}).") from error

    def updated(match: re.Match[str]) -> str:
        table = _KINDS[match["kind"]](path.parent, match["source"].strip())
        return f"{match['begin']}\n{table}{match['end']}"

    changed = _MARKED.sub(updated, text)
    if changed != text:
        write_bytes(path, changed.encode())
    return changed != text


def _headline(folder: Path, source: str) -> str:
    name, *options = source.split()
    if unknown := set(options) - {"ranked", "short"}:
        raise InvalidInput(
            f"options of a records marker are ranked and short, got {' '.join(sorted(unknown))}; "
            "correct the marker."
        )
    records = _records(folder / name)
    return markdown_table(
        ranked(records) if "ranked" in options else records, short="short" in options
    )


def _attacks(folder: Path, source: str) -> str:
    records, _, suite = source.rpartition(" ")
    return markdown_columns(_records(folder / records), suite)


def _speed(folder: Path, source: str) -> str:
    records, rows = [], []
    for name in source.split():
        path, _, chosen = name.partition("#")
        records.append(read_json(folder / path))
        rows.append([int(number) for number in chosen.split(",")] if chosen else None)
    return speed_table(records, rows)


def _autoattack(folder: Path, source: str) -> str:
    return autoattack_table(read_json(folder / source))


def _records(folder: Path) -> list[Record]:
    return [record for _, record in iterate_records(folder)]


_KINDS: dict[str, Callable[[Path, str], str]] = {
    "records": _headline,
    "attacks": _attacks,
    "benchmark": _speed,
    "autoattack": _autoattack,
}
_MARKED = re.compile(
    rf"(?P<begin><!-- (?P<kind>{'|'.join(_KINDS)}): (?P<source>[^>]*) -->)\n.*?"
    r"(?P<end><!-- end (?P=kind) -->)",
    re.DOTALL,
)
