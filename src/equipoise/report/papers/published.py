"""Published results of the papers; read from one file, never typed into code."""

import functools
import json
from importlib import resources
from typing import Any

from equipoise.runtime.errors import InvalidInput


@functools.cache
def published_tables() -> list[dict[str, Any]]:
    """All published tables: ``source``, ``data``, ``norm``, ``network``, ``attack``, ``rows``."""
    text = resources.files("equipoise.report").joinpath("published.json").read_text("utf-8")
    tables: list[dict[str, Any]] = json.loads(text)["tables"]
    return tables


def published_table(source: str, data: str) -> dict[str, Any]:
    """One published table.

    Args:
        source: Paper and table, such as ``"AFA, arXiv:2105.15157, Table 1"``.
        data: Data set; a table over two data sets is stored as two.

    Returns:
        ``network``, ``attack`` and ``rows``; values in percent, except for sizes of networks.

    Raises:
        ValueError: If there is no such table.

    Example:
        >>> published_table("AFA, arXiv:2105.15157, Table 1", "svhn")["rows"][0]["model"]
        'Standard'
    """
    for table in published_tables():
        if (table["source"], table["data"]) == (source, data):
            return table
    raise InvalidInput(f"there are no published values of {source!r} on {data}.")


def published_row(source: str, data: str, model: str) -> dict[str, float]:
    """Published values of one model.

    Args:
        source: Paper and table.
        data: Data set.
        model: Label of the row.

    Returns:
        Values by key: strengths such as ``"8/255"``, and names of other columns; empty if the table
        has no such row.
    """
    for row in published_table(source, data)["rows"]:
        if row["model"] == model:
            others = {key: row[key] for key in row.keys() - {"model", "accuracy"}}
            return {**row["accuracy"], **others}
    return {}
