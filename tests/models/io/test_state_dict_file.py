"""State dicts as other projects write them: inside checkpoints, behind prefixes, with counters."""

import pytest
import safetensors.torch
import tiny
import torch
import user_nets
from torch import nn

from equipoise.cli.train import parse
from equipoise.models import ResNet, load_pretrained
from equipoise.models.io.external import import_with_weights, load_weights
from equipoise.models.io.logits_of import LogitsOf
from equipoise.models.io.model_source import find_model
from equipoise.models.io.state_dict_file import KEYS, read_state_dict, unwrapped
from equipoise.runtime.errors import InvalidInput, RunError
from equipoise.runtime.trust import trusting


def network(classes: int = 10) -> nn.Module:
    torch.manual_seed(classes)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, classes)
    )


WRAPPERS = {
    "plain": lambda state: state,
    "data parallel": lambda state: {f"module.{name}": v for name, v in state.items()},
    "compiled": lambda state: {f"_orig_mod.{name}": v for name, v in state.items()},
    "both": lambda state: {f"module._orig_mod.{name}": v for name, v in state.items()},
    "lightning": lambda state: {
        "state_dict": {**{f"model.net.{n}": v for n, v in state.items()}, "loss.w": torch.ones(2)},
        "epoch": 3,
    },
    "average": lambda state: {
        **{f"module.{name}": v for name, v in state.items()},
        "n_averaged": torch.tensor(5),
    },
    "profiled": lambda state: (
        state | {"total_ops": torch.zeros(1), "0.total_params": torch.ones(1)}
    ),
    "twice": lambda state: {"model": {"state_dict": state}, "best": 0.5},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_training_starts_from_a_checkpoint_of_any_project(wrapper, tmp_path):
    theirs, ours = network(), LogitsOf(network())
    nn.init.normal_(theirs[0].weight)
    torch.save(WRAPPERS[wrapper](theirs.state_dict()), tmp_path / "start.pth")
    load_weights(ours, tmp_path / "start.pth")
    assert tiny.same(theirs.state_dict(), ours.network.state_dict())


@pytest.mark.parametrize("key", KEYS)
def test_weights_are_found_under_the_usual_keys(key, tmp_path):
    state = network().state_dict()
    torch.save({key: state, "optimizer": {"lr": 0.1}}, tmp_path / "start.ckpt")
    assert tiny.same(read_state_dict(tmp_path / "start.ckpt"), state)


def test_an_average_is_taken_only_if_there_is_nothing_else(tmp_path):
    state, average = network(10).state_dict(), network(5).state_dict()
    torch.save({"ema": average, "model": state}, tmp_path / "both.pth")
    assert tiny.same(read_state_dict(tmp_path / "both.pth"), state)


def test_a_file_without_weights_says_what_it_holds(tmp_path):
    torch.save({"epoch": 3, "optimizer": {}}, tmp_path / "none.pth")
    with pytest.raises(RunError, match=r"holds no state dict.* got dict with epoch, optimizer"):
        read_state_dict(tmp_path / "none.pth")


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(network(5).state_dict(), tmp_path / "five.pth")
    with pytest.raises(RunError, match="does not fit Sequential"):
        load_weights(LogitsOf(network(10)), tmp_path / "five.pth")


def test_the_prefix_that_fits_most_is_taken_away():
    state = {"a.x.w": torch.ones(1), "a.x.b": torch.ones(1), "b.w": torch.ones(1)}
    assert unwrapped(state, ["w", "b"]).keys() == {"w", "b"}
    assert unwrapped(state, ["a.x.w", "a.x.b", "b.w"]).keys() == state.keys()


def torchvision_names(ours: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of our ResNet under the names of torchvision and timm, without statistics."""
    named = {}
    for name, value in ours.state_dict().items():
        if name.startswith("normalise."):
            continue
        parts = name.split(".")
        if parts[0] == "stages":
            _, stage, block, kind, *rest = parts
            inner = {"convs": "conv", "norms": "bn"}.get(kind)
            middle = f"{inner}{int(rest.pop(0)) + 1}" if inner else "downsample"
            name = ".".join([f"layer{int(stage) + 1}", block, middle, *rest])
        else:
            name = ".".join(
                [{"conv": "conv1", "norm": "bn1", "linear": "fc"}[parts[0]], *parts[1:]]
            )
        named[name] = value
    return named


@pytest.mark.parametrize("depth", [18, 50])
def test_weights_of_torchvision_and_timm_with_a_head_of_its_own(depth, tmp_path):
    published = ResNet(depth=depth, width=4, classes=7, stem="imagenet")
    state = torchvision_names(published)
    assert {
        "layer1.0.conv1.weight",
        "layer2.0.downsample.1.running_mean",
        "fc.bias",
    } <= state.keys()
    torch.save(
        {"state_dict": {f"module.{name}": v for name, v in state.items()}}, tmp_path / "r.pth"
    )
    ours = ResNet(depth=depth, width=4, classes=3, stem="imagenet")
    before = ours.linear.weight.clone()
    with pytest.raises(InvalidInput, match=r"of another shape: linear.*pass head=.fresh."):
        load_pretrained(ours, tmp_path / "r.pth")
    load_pretrained(ours, tmp_path / "r.pth", head="fresh")
    assert torch.equal(ours.linear.weight, before)
    assert torch.equal(ours.conv.weight, published.conv.weight)
    assert tiny.same(ours.stages.state_dict(), published.stages.state_dict())


def test_our_own_names_are_read_as_well(tmp_path):
    ours, other = (ResNet(depth=18, width=4, classes=3) for _ in range(2))
    safetensors.torch.save_file(ours.state_dict(), tmp_path / "own.safetensors")
    load_pretrained(other, tmp_path / "own.safetensors")
    assert tiny.same(ours.state_dict(), other.state_dict())


def test_a_network_and_its_weights_are_named_together(tmp_path, monkeypatch):
    theirs = user_nets.head_first()
    nn.init.normal_(theirs.head.weight)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "theirs.pth")
    name = f"user_nets:head_first@{tmp_path / 'theirs.pth'}"
    found = find_model(name)
    assert found.name == "user_nets.head_first-theirs"
    assert found.home.as_posix() == "runs/user_nets.head_first-theirs"
    with trusting("user_nets"):
        member = import_with_weights(name)
    for network in (found.network.network, member.network):
        assert tiny.same(network.state_dict(), theirs.state_dict())
    assert member.config["function"] == "user_nets:head_first"


def test_training_names_a_network_and_its_weights_together(tmp_path):
    torch.save(user_nets.small(10, 1).state_dict(), tmp_path / "theirs.pth")
    flag = f"user_nets:small@{tmp_path / 'theirs.pth'}"
    command = parse("standard_digits", ["--network", flag])
    recipe = command.recipe.network
    assert (recipe.function, recipe.weights) == ("user_nets:small", tmp_path / "theirs.pth")
    assert command.trust == ("user_nets:small",)


def test_a_new_head_keeps_the_networks_own_last_layer(tmp_path):
    theirs, ours = network(7), LogitsOf(network(10))
    nn.init.normal_(theirs[0].weight)
    own = ours.network[3].weight.clone()
    torch.save(theirs.state_dict(), tmp_path / "seven.pth")
    load_weights(ours, tmp_path / "seven.pth", new_head=True)
    assert torch.equal(ours.network[0].weight, theirs[0].weight)
    assert torch.equal(ours.network[3].weight, own)
