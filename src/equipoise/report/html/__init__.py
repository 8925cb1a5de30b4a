"""One self-contained HTML page from records; plotly.js draws its figures."""

from equipoise.report.html.page import html_report, write_page

__all__ = ["html_report", "write_page"]
