"""Tables in Markdown files that are made from records and renewed in place."""

import re
from collections.abc import Callable
from pathlib import Path

from equipoise.records.files import iterate_records
from equipoise.report.autoattack_table import reference_table
from equipoise.report.columns import markdown_columns
from equipoise.report.speed_table import speed_table
from equipoise.report.table import Record, markdown_table, ranked
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import read_json, write_bytes

RANKED = " ranked"


def fill_markers(path: Path) -> bool:
    """Renew every table in a Markdown file that stands between markers.

    A marker is ``<!-- KIND: WHAT -->``, and ``<!-- end KIND -->`` ends its table. Paths are
    relative to the file.

    - ``records: FOLDER`` is the headline table of all records under the folder; with ``ranked``
      after the folder the models stand in the order of their trade-off, the best first.
    - ``attacks: FOLDER SUITE`` has one column for each attack of a suite.
    - ``benchmark: RECORD.json ...`` is a speed table.
    - ``autoattack: RECORD.json`` is our suites beside AutoAttack.

    Args:
        path: The Markdown file, rewritten in one step if a table changed.

    Returns:
        Whether it changed.

    Raises:
        ValueError: If a folder holds no record, none has the suite, or a benchmark holds no
            comparison.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}).") from error

    def renew(found: re.Match[str]) -> str:
        made = _KINDS[found["kind"]](path.parent, found["what"].strip())
        return f"{found['begin']}\n{made}{found['end']}"

    renewed = _MARKED.sub(renew, text)
    if renewed != text:
        write_bytes(path, renewed.encode())
    return renewed != text


def _headlines(place: Path, what: str) -> str:
    records = _records(place / what.removesuffix(RANKED))
    return markdown_table(ranked(records) if what.endswith(RANKED) else records)


def _attacks(place: Path, what: str) -> str:
    folder, _, suite = what.rpartition(" ")
    return markdown_columns(_records(place / folder), suite)


def _speed(place: Path, what: str) -> str:
    return speed_table([read_json(place / name) for name in what.split()])


def _reference(place: Path, what: str) -> str:
    return reference_table(read_json(place / what))


def _records(folder: Path) -> list[Record]:
    return [record for _, record in iterate_records(folder)]


_KINDS: dict[str, Callable[[Path, str], str]] = {
    "records": _headlines,
    "attacks": _attacks,
    "benchmark": _speed,
    "autoattack": _reference,
}
_MARKED = re.compile(
    rf"(?P<begin><!-- (?P<kind>{'|'.join(_KINDS)}): (?P<what>[^>]*) -->)\n.*?"
    r"(?P<end><!-- end (?P=kind) -->)",
    re.DOTALL,
)
