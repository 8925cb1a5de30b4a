"""The pages about Python and about one's own network run, on few digits."""

import re
import sys
from pathlib import Path

import pytest
import tiny

from equipoise.cli.main import main
from equipoise.data import Digits
from equipoise.models import WideResNet
from equipoise.recipes import RECIPES

PAGES = Path(__file__).resolve().parents[1] / "docs" / "how-to"
PAGE = PAGES / "your-own-network.md"
CUT = ("afa_digits", "afs_digits", "pgd_at_digits", "standard_digits")


@pytest.fixture
def few_digits(monkeypatch):
    """Recipes of a few steps on a few images; what the page says about them stays true."""
    short, data = {name: tiny.recipe(name) for name in CUT}, tiny.digits()

    patches = []

    def begin() -> pytest.MonkeyPatch:
        patch = pytest.MonkeyPatch()
        patches.append(patch)
        patch.setattr(Digits, "load", lambda self: data)
        patch.setattr("equipoise.api.evaluate.self_checks", lambda *arguments, **settings: [])
        for name, recipe in short.items():
            patch.setitem(RECIPES, name, lambda recipe=recipe: recipe)
        return patch

    yield begin
    for patch in patches:  # also after a failure: other tests need the whole data set
        patch.undo()


@pytest.mark.slow
def test_the_page_about_your_own_network_runs(tmp_path, monkeypatch, few_digits, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    blocks = re.findall(r"^```(python|bash)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {"__name__": "__main__"}
    commands = 0
    for language, block in blocks:
        file = re.match(r"# (\w+\.py)\n", block)
        if file:
            Path(file[1]).write_text(block)
        elif language == "python":
            exec(compile(block, PAGE.name, "exec"), names)
        else:
            patch = few_digits()
            for line in block.splitlines():
                assert line.split()[0] == "equipoise"
                try:
                    main(line.split()[1:])
                except SystemExit as ended:
                    if (ended.code, line.split()[1]) != (1, "evaluate"):
                        raise  # status 1: a network trained this briefly has collapsed
                commands += 1
            patch.undo()
    assert commands >= 8
    assert {path.name for path in Path("runs").iterdir()} >= {"afa_digits", "afs", "heads", "mixed"}
    assert "True" in capsys.readouterr().out.splitlines()
    for module in ("my_models", "my_other_models"):
        sys.modules.pop(module, None)


@pytest.mark.slow
def test_the_page_about_python_runs_in_ten_lines_each(tmp_path, monkeypatch, few_digits, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"^```python\n(.*?)^```", (PAGES / "python.md").read_text(), re.DOTALL | re.M
    )
    assert len(blocks) >= 8
    names: dict[str, object] = {}
    patch = few_digits()
    for block in blocks:
        assert len(block.splitlines()) <= 10
        exec(compile(block, "python.md", "exec"), names)
    patch.undo()
    assert {path.name for path in Path().iterdir()} >= {"robust.png", "robust.json", "robust.onnx"}
    assert "robust against plain" in capsys.readouterr().out


@pytest.mark.slow
def test_our_side_of_the_page_about_other_tools_runs(tmp_path, monkeypatch):
    pytest.importorskip("pyautoattack")
    monkeypatch.chdir(tmp_path)
    images, labels = tiny.split(24).batch(slice(None))
    network = WideResNet(depth=10, width=1, classes=10, channels=1).eval()
    page = (PAGES / "coming-from.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    ours = [block for block in blocks if "import equipoise" in block]
    assert len(ours) == len(blocks) / 2
    for block in ours:
        assert len(block.splitlines()) <= 10
        names = {"model": network, "images": images, "labels": labels}
        exec(compile(block, "coming-from.md", "exec"), names)
