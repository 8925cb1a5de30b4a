"""Turn evaluation records into tables, comparisons, cards, figures and one HTML page.

Everything here is made from files and never imports torch. Figures on the HTML page are interactive
and drawn by plotly.js, which the page contains; figure files (SVG, PNG, PDF) are drawn by
matplotlib. matplotlib and jinja2 are imported when a figure file or a page is made:
``pip install 'equipoise[report]'``.
"""

from equipoise.report.columns import markdown_columns, rich_columns
from equipoise.report.compare import compare_models
from equipoise.report.comparison_table import markdown_comparison, rich_comparison
from equipoise.report.dry_run import rich_costs
from equipoise.report.free_gate import r_free_sentence
from equipoise.report.markdown_markers import fill_markers
from equipoise.report.per_class import rich_per_class
from equipoise.report.self_checks import checks_line, markdown_checks, rich_checks
from equipoise.report.table import markdown_table, rich_table

__all__ = [
    "checks_line",
    "compare_models",
    "fill_markers",
    "markdown_checks",
    "markdown_columns",
    "markdown_comparison",
    "markdown_table",
    "r_free_sentence",
    "rich_checks",
    "rich_columns",
    "rich_comparison",
    "rich_costs",
    "rich_per_class",
    "rich_table",
]
