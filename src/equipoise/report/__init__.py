"""Records to tables. Never imports torch: a report is made from files."""

from equipoise.report.table import fill_markers as fill_markers
from equipoise.report.table import markdown_table as markdown_table
from equipoise.report.table import rich_table as rich_table
