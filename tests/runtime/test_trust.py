import json
import sys

import pytest
import torch
import user_nets
from tiny import same, weights

from equipoise import load, save
from equipoise.models import FeatureStack, fuse_branches, with_branches
from equipoise.models.io.external import import_network
from equipoise.models.io.model_folder import read_config
from equipoise.records.redaction import functions_named
from equipoise.runtime.errors import RunError
from equipoise.runtime.trust import import_trusted_function, trusting

SMALL = {"classes": 3, "channels": 3}


def small(**settings):
    with trusting("user_nets"):
        return import_network("user_nets:small", SMALL, **settings).eval()


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    stack = FeatureStack(
        [fuse_branches(with_branches(small(), 2), placement="stem"), small()], classes=3
    )
    save(stack.eval(), tmp_path)
    return tmp_path


@pytest.fixture
def marked(tmp_path, monkeypatch):
    """A module that leaves a file when it is imported."""
    (tmp_path / "marked.py").write_text(
        "from pathlib import Path\n\nPath('imported').touch()\n\n\n"
        "def make(**arguments):\n    Path('called').touch()\n"
    )
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("marked", None)


def test_untrusted_code_is_not_imported(marked):
    with pytest.raises(RunError, match=r"marked:make is code in the module marked, which is not"):
        import_trusted_function("marked:make")
    assert not (marked / "imported").exists()
    with trusting("marked"):
        import_trusted_function("marked:make")
    assert (marked / "imported").exists()
    with pytest.raises(RunError, match="--trust marked"):  # the permission has ended
        import_trusted_function("marked:make")


@pytest.mark.parametrize("trust", [(), ("mark",), ("marke",), ("marked.inner",), ("other", "os")])
def test_loading_a_folder_runs_no_untrusted_code(marked, folder, trust):
    document = json.loads((folder / "config.json").read_text())
    document["model"] = {"kind": "imported", "function": "marked:make", "arguments": {}}
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(RunError, match=r'trust=\("marked",\) in Python, or the function'):
        load(folder, trust=trust)
    assert not (marked / "imported").exists()


@pytest.mark.parametrize(
    "trust",
    [("user_nets",), ("user_nets:small",), (user_nets.small,)],
    ids=["module", "function by name", "function"],
)
def test_a_folder_loads_if_its_code_is_trusted(folder, images, trust):
    loaded = load(folder, trust=trust)
    again = load(folder, trust=("user_nets",))
    assert torch.equal(loaded(images), again(images))
    assert same(weights(loaded), weights(again))


def test_a_given_function_replaces_one_that_cannot_be_imported(folder, images):
    text = (folder / "config.json").read_text().replace("user_nets:", "moved_away:")
    (folder / "config.json").write_text(text)
    with pytest.raises(RunError, match="No module named 'moved_away'"):
        load(folder, trust=("moved_away",))
    assert load(folder, trust=(user_nets.small,))(images).shape == (6, 3)


def test_functions_imported_by_a_trusted_module_are_not_trusted():
    with (
        trusting("user_nets"),
        pytest.raises(RunError, match="code in the module subprocess"),
    ):
        import_trusted_function("user_nets:shell")
    with trusting("user_nets:shell"):  # the function itself is trusted
        assert import_trusted_function("user_nets:shell") is user_nets.shell


def test_trusting_a_module_trusts_its_submodules():
    with trusting("equipoise"):
        assert (
            import_trusted_function("equipoise.models.backbones.wide_resnet:WideResNet").__name__
            == "WideResNet"
        )


@pytest.mark.parametrize("name", ["user_nets", ":small", "user_nets:", "user_nets:os.system", ""])
def test_a_name_must_be_written_module_colon_function(name):
    with (
        trusting("user_nets"),
        pytest.raises(RunError, match="is written module:function, got"),
    ):
        import_trusted_function(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("user_nets:missing", r"cannot be imported \(.*no attribute 'missing'"),
        ("user_nets:__doc__", "must be a function, got str"),
    ],
)
def test_a_trusted_name_must_be_a_function(name, message):
    with trusting(name), pytest.raises(RunError, match=message):
        import_trusted_function(name)


def test_a_function_must_return_a_network():
    with trusting("user_nets"):
        with pytest.raises(RunError, match=r"must return an nn.Module, got int"):
            import_network("user_nets:nothing", {})
        with pytest.raises(RunError, match=r"unexpected keyword.*colour='red'"):
            import_network("user_nets:small", SMALL | {"colour": "red"})


def test_configuration_and_card_name_the_required_code(folder):
    assert functions_named(read_config(folder)["model"]) == ["user_nets:small"] * 2
    assert "equipoise.load(folder, trust=('user_nets',))" in (folder / "README.md").read_text()


def test_tied_weights_are_saved_and_loaded(tmp_path, images):
    with trusting("user_nets"):
        network = import_network("user_nets:tied", SMALL).eval()
    save(network, tmp_path)
    loaded = load(tmp_path, trust=("user_nets",))
    assert torch.equal(loaded(images), network(images))
    assert loaded.network.twin is loaded.network.linear
