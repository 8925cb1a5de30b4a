import json
import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

from equipoise.models import (
    AtLayer,
    FeatureStack,
    WideResNet,
    fuse_branches,
    load,
    save,
    with_branches,
)
from equipoise.models.io.model_folder import KINDS, ModelFolderError, read_config


@pytest.fixture
def network():
    torch.manual_seed(0)
    return WideResNet(depth=10, width=1, classes=3).eval()


@pytest.fixture
def folder(network, tmp_path):
    save(network, tmp_path / "model", card={"name": "a test", "epsilon": 0.1})
    return tmp_path / "model"


def rewrite_config(folder, change):
    document = json.loads((folder / "config.json").read_text())
    change(document)
    (folder / "config.json").write_text(json.dumps(document))


def test_a_folder_holds_config_weights_and_card(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert read_config(folder)["card"] == {"name": "a test", "epsilon": 0.1}
    card = (folder / "README.md").read_text()
    assert card.startswith("# a test\n")
    assert "- **epsilon**: 0.1" in card


def test_a_loaded_model_is_in_eval_mode_and_gives_the_same_logits(folder, network, images):
    loaded = load(folder)
    assert not any(module.training for module in loaded.modules())
    assert torch.equal(loaded(images), network(images))


def test_a_run_folder_loads_its_model_folder(folder, network, images):
    assert torch.equal(load(folder.parent)(images), network(images))


def test_saving_again_replaces_the_model(folder, images):
    torch.manual_seed(1)
    other = WideResNet(depth=10, width=1, classes=5).eval()
    save(other, str(folder))
    assert torch.equal(load(str(folder))(images), other(images))


def test_loading_and_saving_give_the_same_bytes(folder, tmp_path):
    save(load(folder), tmp_path / "again", card=read_config(folder)["card"])
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_a_loaded_model_is_independent_of_the_global_seed(folder, images):
    torch.manual_seed(5)
    first = load(folder)(images)
    torch.manual_seed(6)
    assert torch.equal(load(folder)(images), first)


@pytest.mark.parametrize("separate", ["both", "statistics", "affine"])
def test_a_branched_network_keeps_every_branch(separate, network, tmp_path, images):
    model = with_branches(network, 2, separate)
    model.train()
    for k in range(2):
        model(images + k, branch=k)
    save(model.eval(), tmp_path)
    for k in range(2):
        assert torch.equal(load(tmp_path)(images, branch=k), model(images, branch=k))


@pytest.mark.parametrize("each", ["image", "channel"])
def test_an_adaptive_network_keeps_its_generator(each, network, tmp_path, images):
    model = fuse_branches(with_branches(network, branches=2), placement="stem", hidden=4, each=each)
    model.train()
    model(images)
    save(model.eval(), tmp_path)
    expected = model.logits_and_weight(images)
    torch.testing.assert_close(load(tmp_path).logits_and_weight(images), expected, rtol=0, atol=0)


@pytest.mark.parametrize("before", ["robust", "clean"])
def test_an_adaptive_network_keeps_the_layer_that_it_reads(before, network, tmp_path, images):
    placement = AtLayer(layer="stages.0", before=before)
    model = fuse_branches(with_branches(network, 2), placement=placement, hidden=4)
    model.train()(images)
    save(model.eval(), tmp_path)
    loaded, expected = load(tmp_path), model.logits_and_weight(images)
    assert loaded.layer == model.layer
    torch.testing.assert_close(loaded.logits_and_weight(images), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": "stages.9"}, "layer must name a layer of WideResNet .* got 'stages.9'"),
        ({"layer": 3}, "layer must be the name of a layer, got 3"),
        ({"before": "both"}, "before must be one of"),
        ({"channels": -1}, "channels must be 1 or more, got -1"),
        ({"channels": None}, "channels"),
        ({"channels": 17}, "generator.blocks.0.weight has shape"),
        ({"placement": "stem"}, "unexpected keyword argument"),
    ],
)
@pytest.mark.usefixtures("no_shape_checks")
def test_a_folder_with_a_layer_that_cannot_be_read_is_refused(changes, message, network, tmp_path):
    model = fuse_branches(with_branches(network, 2), placement=AtLayer(layer="stages.0"))
    save(model, tmp_path)
    rewrite_config(tmp_path, lambda config: config["model"].update(changes))
    with pytest.raises(ModelFolderError, match=message):
        load(tmp_path)


def test_folders_from_before_a_setting_existed_load(network, tmp_path, images):
    model = fuse_branches(with_branches(network, branches=2), placement="stem", hidden=4).eval()
    save(model, tmp_path / "adaptive")
    rewrite_config(tmp_path / "adaptive", lambda config: config["model"].pop("each"))
    assert torch.equal(load(tmp_path / "adaptive")(images), model(images))
    branched = with_branches(network, branches=2).eval()
    save(branched, tmp_path / "branched")
    rewrite_config(tmp_path / "branched", lambda config: config["model"].pop("separate"))
    assert torch.equal(load(tmp_path / "branched")(images, branch=1), branched(images, branch=1))


def test_a_model_without_a_config_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Linear cannot be saved .* Save its state_dict"):
        save(nn.Linear(2, 2), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ModelFolderError, match=r"not a model folder: .*config.json does not exist"):
        load(tmp_path / "nowhere")


def test_missing_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFolderError, match=r"model.safetensors is missing; copy the folder"):
        load(folder)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_truncated_weights_are_refused(keep, folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelFolderError, match=r"model.safetensors is damaged"):
        load(folder)


class Bomb:
    exploded = False

    def __reduce__(self):
        return (setattr, (Bomb, "exploded", True))


@pytest.mark.parametrize("write", [pickle.dump, torch.save])
def test_a_pickle_that_poses_as_weights_is_refused_and_not_run(write, folder):
    with (folder / "model.safetensors").open("wb") as file:
        write(Bomb(), file)
    with pytest.raises(ModelFolderError, match=r"model.safetensors is damaged"):
        load(folder)
    assert not Bomb.exploded


def test_a_folder_where_weights_should_be_is_refused(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    with pytest.raises(ModelFolderError, match=r"model.safetensors"):
        load(folder)


@pytest.mark.parametrize("text", ["", "{", "weights", "\x00\xff"])
def test_a_config_that_is_not_json_is_refused(text, folder):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelFolderError, match=r"is not a model folder: .*config.json"):
        load(folder)


@pytest.mark.parametrize("text", ["[]", "3", '{"format": 2, "model": {}}', '{"format": 1}'])
def test_a_config_of_another_format_is_refused(text, folder):
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelFolderError, match="is not a model configuration of format 1"):
        load(folder)


@pytest.mark.parametrize("kind", ["resnet_9000", None, ["wide_resnet"], "os.system"])
def test_an_unknown_kind_is_refused(kind, folder):
    rewrite_config(folder, lambda document: document["model"].update(kind=kind))
    with pytest.raises(ModelFolderError, match=r"config.json does not describe a model"):
        load(folder)


@pytest.mark.parametrize(
    "change",
    [{"depth": 11}, {"depth": "ten"}, {"colour": "red"}, {"mean": [0.5]}, {"classes": 1}],
    ids=str,
)
def test_an_invalid_setting_is_refused(change, folder):
    rewrite_config(folder, lambda document: document["model"].update(change))
    with pytest.raises(ModelFolderError, match=r"config.json does not describe a model"):
        load(folder)


def test_a_missing_setting_is_refused(folder):
    rewrite_config(folder, lambda document: document["model"].pop("width"))
    with pytest.raises(ModelFolderError, match=r"does not describe a model: .*width"):
        load(folder)


@pytest.mark.parametrize(
    "model", [[], "wide_resnet", {"kind": "stack", "classes": 3, "members": 1}]
)
def test_a_model_that_is_not_a_configuration_is_refused(model, folder):
    rewrite_config(folder, lambda document: document.update(model=model))
    with pytest.raises(ModelFolderError, match=r"config.json does not describe a model"):
        load(folder)


@pytest.mark.parametrize(
    "change",
    [{"width": 2}, {"depth": 16}, {"classes": 4}, {"channels": 1, "mean": [0.5], "std": [0.25]}],
    ids=str,
)
def test_weights_of_another_network_are_refused(change, folder):
    rewrite_config(folder, lambda document: document["model"].update(change))
    with pytest.raises(ModelFolderError, match=r"model.safetensors does not fit config.json"):
        load(folder)


def network_config(**changes):
    config = {"kind": "wide_resnet", "depth": 10, "width": 1, "classes": 3, "channels": 3}
    return config | changes


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (network_config(width=65536), r"does not fit config.json"),
        (network_config(width=10**9), r"at most 65536, got 1000000000"),
        (network_config(depth=6 * 10**3 + 4), r"at most the tensors of the weights, \d+, got 6004"),
        ({"kind": "branched", "branches": 9999, "network": network_config()}, r"got 99990"),
        ({"kind": "stack", "classes": 3, "members": [network_config()] * 999}, r"got 9990"),
    ],
    ids=["wide", "wider", "deep", "branches", "members"],
)
def test_a_network_larger_than_its_weights_is_refused_before_it_is_built(
    model, message, folder, monkeypatch
):
    built_on = []

    def build(**settings):
        built_on.append(torch.get_default_device().type)
        return WideResNet(**settings)

    monkeypatch.setitem(KINDS, "wide_resnet", build)
    rewrite_config(folder, lambda document: document.update(model=model))
    with pytest.raises(ModelFolderError, match=message):
        load(folder)
    assert built_on in ([], ["meta"])


def test_compositions_of_networks_load(tmp_path, images):
    torch.manual_seed(0)
    adaptive = fuse_branches(
        with_branches(WideResNet(depth=16, width=1, classes=3), 3), placement="input"
    )
    model = FeatureStack([adaptive, WideResNet(depth=10, width=2, classes=3)], 3).eval()
    save(model, tmp_path)
    assert torch.equal(load(tmp_path)(images), model(images))


@pytest.mark.parametrize("claimed", [1 << 25, (1 << 64) - 1])
def test_a_header_that_claims_to_be_huge_is_refused(claimed, folder):
    path = folder / "model.safetensors"
    path.write_bytes(claimed.to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(
        ModelFolderError, match=rf"damaged: its header must have at most \d+ bytes, got {claimed}"
    ):
        load(folder)


def test_a_tensor_beyond_the_end_of_the_file_is_refused(folder):
    header = json.dumps(
        {"conv.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    ).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelFolderError, match=r"model.safetensors is damaged"):
        load(folder)


def test_an_extra_tensor_is_refused(folder, network):
    state = network.state_dict() | {"extra": torch.zeros(3)}
    safetensors.torch.save_file(state, folder / "model.safetensors")
    with pytest.raises(ModelFolderError, match=r"does not fit config.json: extra has shape \(3,\)"):
        load(folder)


@pytest.mark.parametrize("text", [" " * (1 << 20) + "{}", "[" * 100_000 + "]" * 100_000])
def test_a_huge_or_deeply_nested_config_is_refused(text, folder):
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelFolderError, match=r"is not a model folder: .*(bytes|not valid JSON)"):
        load(folder)


@pytest.mark.parametrize(
    "name", ["../../escaped", "/etc/model", "..", ".hidden", "a\\b", "\x1b[31m", "", 3, "x" * 101]
)
def test_a_name_that_could_escape_its_folder_is_refused(name, folder):
    rewrite_config(folder, lambda document: document["card"].update(name=name))
    with pytest.raises(ModelFolderError, match=r"config.json cannot be used: the name must be"):
        load(folder)


@pytest.mark.parametrize("classes", ["cats", [1, 2], ["cat", "\x1b[2J"], ["x" * 101]])
def test_classes_that_are_not_printable_names_are_refused(classes, folder):
    rewrite_config(folder, lambda document: document["card"].update(classes=classes))
    with pytest.raises(ModelFolderError, match=r"classes must be a list of printable names"):
        load(folder)


@pytest.mark.parametrize("shape", [[3, 10**9, 10**9], [3, 32], [3, 32, 0], "3x32", [3, 32, 1.5]])
def test_an_impossible_image_shape_is_refused(shape, folder):
    rewrite_config(folder, lambda document: document["card"].update(image_shape=shape))
    with pytest.raises(ModelFolderError, match=r"image_shape must be three whole numbers in \[1, "):
        load(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", "/../../settings", "seed must be a whole number, got '/../../settings'"),
        ("seed", [1], "seed must be a whole number"),
        ("validation_images", 1.5, "validation_images must be a whole number"),
        ("evaluation", 5, "evaluation must be an object, got .5."),
        ("dataset", [], "dataset must be an object"),
    ],
)
def test_a_card_with_a_value_of_the_wrong_type_is_refused(key, value, message, folder):
    rewrite_config(folder, lambda document: document["card"].update({key: value}))
    with pytest.raises(ModelFolderError, match=message):
        load(folder)


def test_a_card_that_is_not_an_object_is_refused(folder):
    rewrite_config(folder, lambda document: document.update(card=[]))
    with pytest.raises(ModelFolderError, match="the card must be an object, got list"):
        load(folder)


def test_a_model_is_not_saved_under_a_name_that_would_not_load(network, tmp_path):
    with pytest.raises(ValueError, match="the name must be"):
        save(network, tmp_path / "model", {"name": "a/b"})
    assert not (tmp_path / "model").exists()
