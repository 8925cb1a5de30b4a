"""Read evaluation records from disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from equipoise.records import schema
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import read_json


def iterate_records(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Read all records under a folder, in the order of their paths.

    Args:
        folder: A run folder, a folder of records, or any folder above them.

    Returns:
        Pairs of path and record; none if there are no records.

    Raises:
        RunError: If a record is damaged or of another format.

    Example:
        >>> for path, record in iterate_records(Path("runs")):  # doctest: +SKIP
        ...     print(record["model"], record["headline"]["accuracy"])
    """
    paths = set(folder.rglob("records/*.json"))
    if folder.resolve().name == "records":
        paths |= set(folder.glob("*.json"))
    for path in sorted(paths):
        yield path, read_record(path)


def read_record(path: Path) -> dict[str, Any]:
    """Read and check one record.

    Args:
        path: Its JSON file.

    Returns:
        The record; ``records.schema.Record`` lists its fields.

    Raises:
        RunError: If it is missing, damaged or of another format.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "record.json"
        >>> _ = path.write_text('{"format": 99}')
        >>> read_record(path)
        Traceback (most recent call last):
        ...
        equipoise.runtime.errors.RunError: ...record.json is not a record of format 1 (got 99).
    """
    record: dict[str, Any] = read_json(path)
    try:
        schema.check(record)
    except ValueError as error:
        raise RunError(f"{path} is {error}.") from error
    return record
