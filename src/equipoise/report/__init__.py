"""Records to tables. Never imports torch: a report is made from files."""

from equipoise.report.columns import markdown_columns, rich_columns
from equipoise.report.compare import comparison, markdown_comparison, rich_comparison
from equipoise.report.dry_run import rich_costs
from equipoise.report.markdown_markers import fill_markers
from equipoise.report.self_checks import checks_line, markdown_checks, rich_checks
from equipoise.report.table import markdown_table, rich_table

__all__ = [
    "checks_line",
    "comparison",
    "fill_markers",
    "markdown_checks",
    "markdown_columns",
    "markdown_comparison",
    "markdown_table",
    "rich_checks",
    "rich_columns",
    "rich_comparison",
    "rich_costs",
    "rich_table",
]
