"""The notebooks in examples/ run from their first cell to the last, on few digits."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
FEW_DIGITS = """
from dataclasses import replace
from equipoise.data import Digits
load = Digits.load
def few(self):
    whole = load(self)
    parts = {"train": whole.train.take(slice(0, 400)), "test": whole.test.take(slice(0, 60))}
    return replace(whole, **parts)
Digits.load = few
"""


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    assert all(
        cell.outputs
        for cell in notebook.cells
        if cell.get("outputs") is not None
        and ("print" in cell.source or cell.source.strip().splitlines()[-1].isidentifier())
    )
    for cell in notebook.cells:
        cell.source = cell.source.replace("images=200", "images=60")  # all that there are here
    notebook.cells.insert(0, nbformat.v4.new_code_cell(FEW_DIGITS))
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    shown = [
        kind
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        for kind in output.get("data", {})
    ]
    assert "text/html" in shown
