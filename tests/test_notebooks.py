"""The notebooks in examples/ run from their first cell to the last, on few digits.

They run in a fresh environment with the built wheel: a file that it lacks is missed here.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
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


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Site packages of an environment with the wheel, and with the libraries of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    kept = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=kept)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels = folder / "wheels"
    build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, source)
    subprocess.run([*pip, *build], check=True)
    venv.create(folder / "environment", symlinks=True)
    python = folder / "environment" / "bin" / "python"
    (packages,) = (folder / "environment").glob("lib/python*/site-packages")
    # Only the path: the .pth file there that leads to the source is not followed.
    (packages / "libraries.pth").write_text(sysconfig.get_paths()["purelib"])
    (wheel,) = wheels.glob("equipoise-*.whl")
    install = ("--python", python, "install", "--no-deps", "--no-index", "--ignore-installed")
    subprocess.run([*pip, *install, wheel], check=True)
    kernel = folder / "jupyter" / "kernels" / "wheel" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": command, "display_name": "wheel", "language": "python"}))
    os.environ["JUPYTER_PATH"] = str(folder / "jupyter")
    yield packages
    del os.environ["JUPYTER_PATH"]


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, environment, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    assert all(
        cell.outputs
        for cell in notebook.cells
        if cell.get("outputs") is not None
        and ("print" in cell.source or cell.source.strip().splitlines()[-1].isidentifier())
    )
    for cell in notebook.cells:
        cell.source = cell.source.replace("images=200", "images=60")  # all that there are here
    from_wheel = f"import equipoise; assert equipoise.__file__.startswith({str(environment)!r})"
    notebook.cells[:0] = map(nbformat.v4.new_code_cell, (from_wheel, FEW_DIGITS))
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="wheel", resources={"metadata": {"path": tmp_path}}
    ).execute()
    shown = [
        kind
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        for kind in output.get("data", {})
    ]
    assert "text/html" in shown
