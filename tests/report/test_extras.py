"""Optional packages: reports import without them, and a missing one is named."""

import pkgutil
import subprocess
import sys

import pytest
from headline_records import record

import equipoise.report
from equipoise.report.curves_figure import write_curves
from equipoise.report.extras import report_extra
from equipoise.report.html.page import write_page
from equipoise.report.papers import ENTRIES, SCALES, write_entry
from equipoise.runtime.errors import RunError

DRAWING = {"style", "line_figures", "model_figures"}  # imported when a figure is drawn
MODULES = [
    module.name
    for module in pkgutil.walk_packages(equipoise.report.__path__, "equipoise.report.")
    if module.name.rpartition(".")[2] not in DRAWING
]
HEAVY = ("torch", "matplotlib", "plotly", "jinja2", "markupsafe", "numpy")


def test_reports_import_without_torch_and_without_optional_packages():
    code = "\n".join(
        [
            "import sys",
            f"sys.modules.update(dict.fromkeys({HEAVY}))",
            *(f"import {module}" for module in MODULES),
        ]
    )
    assert len(MODULES) > 20
    subprocess.run([sys.executable, "-c", code], check=True)


def test_drawing_figures_needs_no_torch():
    names = ", ".join(f"equipoise.report.papers.{name}" for name in sorted(DRAWING))
    code = f"import sys; sys.modules['torch'] = None; import {names}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_page_without_jinja2_names_the_extra_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    message = r"an HTML page needs jinja2, .*: pip install 'equipoise\[report\]'"
    with pytest.raises(RunError, match=message):
        write_page([(tmp_path / "records" / "x.json", record())], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_figure_without_matplotlib_names_the_extra_to_install(tmp_path, monkeypatch):
    for name in ("style", "line_figures"):
        monkeypatch.delitem(sys.modules, f"equipoise.report.papers.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = r"a figure file needs matplotlib, .*: pip install 'equipoise\[report\]'"
    with pytest.raises(RunError, match=message):
        write_curves([record()], tmp_path / "curves.svg")
    with pytest.raises(RunError, match=message):
        write_entry(ENTRIES["afa-fig-6"], SCALES["tiny"], {}, [], tmp_path)
    assert not any(tmp_path.iterdir())


def test_any_other_failed_import_is_not_hidden():
    with pytest.raises(ImportError, match="something else"), report_extra("a figure file"):
        raise ImportError("something else", name="user_nets_package")
