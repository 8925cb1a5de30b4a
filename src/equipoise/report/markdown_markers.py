"""Update tables between markers in Markdown files from records."""

import re
from collections.abc import Callable
from pathlib import Path

from equipoise.records.files import iterate_records
from equipoise.report.autoattack_table import autoattack_table
from equipoise.report.columns import markdown_columns
from equipoise.report.speed_table import speed_table
from equipoise.report.table import Record, markdown_table, ranked
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import read_json, write_bytes

RANKED = " ranked"


def fill_markers(path: Path) -> bool:
    """Update every table between markers in a Markdown file.

    ``<!-- KIND: SOURCE -->`` begins a table and ``<!-- end KIND -->`` ends it. Paths are relative
    to the file.

    - ``records: FOLDER``: headline table of all records under the folder. With ``ranked`` after the
      folder, models are sorted by their trade-off, the best first.
    - ``attacks: FOLDER SUITE``: one column for each attack of a suite.
    - ``benchmark: RECORD.json ...``: speed table.
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
    records = _records(folder / source.removesuffix(RANKED))
    return markdown_table(ranked(records) if source.endswith(RANKED) else records)


def _attacks(folder: Path, source: str) -> str:
    records, _, suite = source.rpartition(" ")
    return markdown_columns(_records(folder / records), suite)


def _speed(folder: Path, source: str) -> str:
    return speed_table([read_json(folder / name) for name in source.split()])


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
