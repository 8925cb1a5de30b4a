"""The papers' tables and figures, each defined by one value; matplotlib draws the figures."""

from equipoise.report.papers.catalogue import ENTRIES, find_entries
from equipoise.report.papers.entry import Entry, Figure, Table
from equipoise.report.papers.measurements import Result, Results
from equipoise.report.papers.pages import write_entry, write_index
from equipoise.report.papers.scales import SCALES, Scale, recipe_of, recipes_of
from equipoise.report.papers.tables import rich_entry

__all__ = [
    "ENTRIES",
    "SCALES",
    "Entry",
    "Figure",
    "Result",
    "Results",
    "Scale",
    "Table",
    "find_entries",
    "recipe_of",
    "recipes_of",
    "rich_entry",
    "write_entry",
    "write_index",
]
