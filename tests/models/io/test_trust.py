import json
import sys

import pytest
import somebodys
import torch
from tiny import same, weights

from equipoise import load, save
from equipoise.models import FeatureStack, fuse_branches, with_branches
from equipoise.models.io.external import import_network
from equipoise.models.io.model_folder import read_config
from equipoise.models.io.trust import import_trusted_function, trusting
from equipoise.records.redaction import functions_named
from equipoise.runtime.errors import RunError

SMALL = {"classes": 3, "channels": 3}


def small(**settings):
    with trusting("somebodys"):
        return import_network("somebodys:small", SMALL, **settings).eval()


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


def test_code_that_is_not_trusted_is_not_even_imported(marked):
    with pytest.raises(RunError, match=r"marked:make is code of the module marked, which is not"):
        import_trusted_function("marked:make")
    assert not (marked / "imported").exists()
    with trusting("marked"):
        import_trusted_function("marked:make")
    assert (marked / "imported").exists()
    with pytest.raises(RunError, match="--trust marked"):  # the permission has gone
        import_trusted_function("marked:make")


@pytest.mark.parametrize("trust", [(), ("mark",), ("marke",), ("marked.inner",), ("other", "os")])
def test_a_folder_does_not_run_what_is_not_trusted(marked, folder, trust):
    document = json.loads((folder / "config.json").read_text())
    document["model"] = {"kind": "imported", "function": "marked:make", "arguments": {}}
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(RunError, match=r'trust=\("marked",\) in Python, or the function'):
        load(folder, trust=trust)
    assert not (marked / "imported").exists()


@pytest.mark.parametrize(
    "trust",
    [("somebodys",), ("somebodys:small",), (somebodys.small,)],
    ids=["module", "function by name", "function"],
)
def test_a_folder_is_loaded_where_its_code_is_trusted(folder, images, trust):
    loaded = load(folder, trust=trust)
    again = load(folder, trust=("somebodys",))
    assert torch.equal(loaded(images), again(images))
    assert same(weights(loaded), weights(again))


def test_a_function_that_is_given_stands_for_one_that_cannot_be_imported(folder, images):
    text = (folder / "config.json").read_text().replace("somebodys:", "moved_away:")
    (folder / "config.json").write_text(text)
    with pytest.raises(RunError, match="No module named 'moved_away'"):
        load(folder, trust=("moved_away",))
    assert load(folder, trust=(somebodys.small,))(images).shape == (6, 3)


def test_what_a_trusted_module_has_only_imported_is_not_trusted():
    with trusting("somebodys"), pytest.raises(RunError, match="code of the module subprocess"):
        import_trusted_function("somebodys:shell")
    with trusting("somebodys:shell"):  # said in full
        assert import_trusted_function("somebodys:shell") is somebodys.shell


def test_trust_in_a_module_is_trust_in_what_is_below_it():
    with trusting("equipoise"):
        assert (
            import_trusted_function("equipoise.models.backbones.wide_resnet:WideResNet").__name__
            == "WideResNet"
        )


@pytest.mark.parametrize("name", ["somebodys", ":small", "somebodys:", "somebodys:os.system", ""])
def test_a_name_that_is_no_module_and_function_is_refused(name):
    with trusting("somebodys"), pytest.raises(RunError, match="is written module:function, got"):
        import_trusted_function(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("somebodys:missing", r"gives no network \(.*no attribute 'missing'"),
        ("somebodys:__doc__", "must be a function, got str"),
    ],
)
def test_a_trusted_name_that_is_no_function_is_refused(name, message):
    with trusting(name), pytest.raises(RunError, match=message):
        import_trusted_function(name)


def test_a_function_that_gives_no_network_is_refused():
    with trusting("somebodys"):
        with pytest.raises(RunError, match=r"must return an nn.Module, got int"):
            import_network("somebodys:nothing", {})
        with pytest.raises(RunError, match=r"unexpected keyword.*colour='red'"):
            import_network("somebodys:small", SMALL | {"colour": "red"})


def test_a_configuration_and_its_card_name_the_code_that_they_need(folder):
    assert functions_named(read_config(folder)["model"]) == ["somebodys:small"] * 2
    assert "equipoise.load(folder, trust=('somebodys',))" in (folder / "README.md").read_text()


def test_tied_weights_are_saved_and_loaded(tmp_path, images):
    with trusting("somebodys"):
        network = import_network("somebodys:tied", SMALL).eval()
    save(network, tmp_path)
    loaded = load(tmp_path, trust=("somebodys",))
    assert torch.equal(loaded(images), network(images))
    assert loaded.network.twin is loaded.network.linear
