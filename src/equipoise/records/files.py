"""Read evaluation records from disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from equipoise.records import schema
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import (
    read_json,
)


def iterate_records(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """All records under a folder, in order of their paths.

    Returns:
        Pairs of path and record.

    Raises:
        RunError: If a record is damaged or of another format.
    """
    found = set(folder.rglob("records/*.json"))
    if folder.resolve().name == "records":
        found |= set(folder.glob("*.json"))
    for path in sorted(found):
        yield path, read_record(path)


def read_record(path: Path) -> dict[str, Any]:
    """Read one record.

    Raises:
        RunError: If it is missing, damaged or of another format.
    """
    record: dict[str, Any] = read_json(path)
    try:
        schema.check(record)
    except ValueError as error:
        raise RunError(f"{path} is {error}.") from error
    return record
