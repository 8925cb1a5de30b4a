import sys
import textwrap

import pytest
import torch
from tiny import images_and_labels, linear

from equipoise.models.io.external import is_external, load_external
from equipoise.runtime.errors import RunError


@pytest.fixture
def images():
    return images_and_labels(4)[0]


@pytest.fixture
def importable(tmp_path, monkeypatch):
    name = "networks_for_a_test"
    (tmp_path / f"{name}.py").write_text(
        textwrap.dedent("""
            import torch
            from torch import nn


            def make():
                torch.manual_seed(0)
                return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.5))


            def make_nothing():
                return 3


            def needs_more(depth):
                return nn.Identity()
            """)
    )
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_an_importable_function_gives_a_network_in_eval_mode(importable, images):
    result = load_external(f"{importable}:make")
    assert not result.training
    assert result(images).shape == (4, 10)
    assert sys.path[0] != "."


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}:make_nothing", "must return an nn.Module, got int"),
        ("{}:needs_more", r"cannot build a network \(.*depth"),
        ("{}:missing", r"cannot be imported \(.*missing"),
        ("no_such_module:make", r"cannot be imported \(No module named"),
        ("missing.onnx", "missing.onnx does not exist"),
    ],
)
def test_a_name_without_a_network_is_refused(importable, name, message):
    with pytest.raises(RunError, match=message):
        load_external(name.format(importable))


def test_files_and_functions_are_external_and_folders_are_not(tmp_path):
    assert not is_external(str(tmp_path))
    assert not is_external("runs/demo")
    assert is_external("module:function")
    assert is_external("model.onnx")
    assert is_external("model.pt2")


def test_a_model_on_the_hub_is_not_external():
    assert not is_external("hf://owner/name")


def test_an_untrusted_torch_export_file_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(linear(), (torch.rand(1, 1, 8, 8),)), path)
    monkeypatch.setattr(torch.export, "load", lambda *args, **kwargs: pytest.fail("was read"))
    with pytest.raises(RunError, match=r"model.pt2 is a file of torch.export.*--trust .*model.pt2"):
        load_external(str(path))
    with pytest.raises(RunError, match="was not read"):
        load_external(str(path), trust=[str(tmp_path), "model", "torch"])
