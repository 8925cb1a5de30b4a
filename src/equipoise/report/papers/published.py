"""Published values, each with its table; read from one file, never typed into code."""

import functools
import json
from importlib import resources
from typing import Any


@functools.cache
def published_table(source: str, data: str) -> dict[str, Any]:
    """A published table.

    Args:
        source: Such as ``"AFA, arXiv:2105.15157, Table 1"``.
        data: Its data set; a table over two sets is stored as two.

    Returns:
        ``network``, ``attack`` and ``rows``; values in percent, but for sizes of networks.

    Raises:
        ValueError: If there is no such table.
    """
    text = resources.files("equipoise.report").joinpath("published.json").read_text("utf-8")
    for table in json.loads(text)["tables"]:
        if (table["source"], table["data"]) == (source, data):
            found: dict[str, Any] = table
            return found
    raise ValueError(f"there are no published values of {source!r} on {data}.")


def published_row(source: str, data: str, model: str) -> dict[str, float]:
    """What was published about one model.

    Args:
        source: The table.
        data: Its data set.
        model: The row.

    Returns:
        Values by key: strengths such as ``"8/255"``, and the names of other columns; empty if the
        table has no such row.
    """
    for row in published_table(source, data)["rows"]:
        if row["model"] == model:
            others = {key: row[key] for key in row.keys() - {"model", "accuracy"}}
            return {**row["accuracy"], **others}
    return {}
