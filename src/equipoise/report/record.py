"""An evaluation record as reports read it; ``records.schema.Record`` lists its fields."""

from typing import Any

Record = dict[str, Any]


def attack_count(record: Record) -> int:
    """Number of attacks in a record, over all suites."""
    return sum(len(suite["attacks"]) for suite in record["suites"])
