"""The example and its page run and show the same class."""

import re
import runpy
from pathlib import Path

import pytest

from equipoise.objectives import Objective

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "own_objective.py"
PAGE = ROOT / "docs" / "how-to" / "your-own-objective.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_example_trains_a_robust_network(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(EXAMPLE), run_name="__main__")
    clean, robust = (float(line.rsplit(" ", 1)[1]) for line in capsys.readouterr().out.splitlines())
    assert clean > 0.9
    assert 0.6 < robust <= clean
    assert isinstance(names["LogitPairing"](), Objective)
    metrics = tmp_path / "runs" / "own_objective" / "stages" / "network" / "metrics.jsonl"
    assert "loss_pairing" in metrics.read_text()


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for block in blocks():
        exec(compile(block, PAGE.name, "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_page_shows_the_examples_class():
    start = "@dataclass(frozen=True, kw_only=True)\nclass LogitPairing:"
    shown = blocks()[0][blocks()[0].index(start) :]
    assert shown in EXAMPLE.read_text()


def test_the_page_names_every_part_of_the_protocol():
    parts = {name for name in vars(Objective) if not name.startswith("_")}
    assert parts == {"attacks", "start_noise", "per_image_loss", "goal", "losses"}
    assert all(f"| `{part}` |" in PAGE.read_text() for part in parts)
