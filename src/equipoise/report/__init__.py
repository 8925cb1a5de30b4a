"""Records to tables. Never imports torch: a report is made from files."""

from equipoise.report.columns import markdown_columns as markdown_columns
from equipoise.report.columns import rich_columns as rich_columns
from equipoise.report.compare import comparison as comparison
from equipoise.report.compare import markdown_comparison as markdown_comparison
from equipoise.report.compare import rich_comparison as rich_comparison
from equipoise.report.costs import rich_costs as rich_costs
from equipoise.report.markers import fill_markers as fill_markers
from equipoise.report.self_checks import checks_line as checks_line
from equipoise.report.self_checks import markdown_checks as markdown_checks
from equipoise.report.self_checks import rich_checks as rich_checks
from equipoise.report.table import markdown_table as markdown_table
from equipoise.report.table import rich_table as rich_table
