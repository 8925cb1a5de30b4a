"""Weights of public projects, against forward passes written independently of our networks."""

import re

import pytest
import safetensors.torch
import torch
from torch.nn import functional

from equipoise.data import DataSet, Split
from equipoise.models import PreActResNet, ResNet, WideResNet, load_pretrained, with_branches
from equipoise.models.io.pretrained import LAYOUTS
from equipoise.recipes import ImportedNetwork
from equipoise.runtime.errors import RunError
from equipoise.runtime.trust import trusting

PLAIN = {"mean": [0.0] * 3, "std": [1.0] * 3}


def conv(state, name, inside, outside, size=3):
    state[f"{name}.weight"] = torch.randn(outside, inside, size, size) * (inside * size**2) ** -0.5


def norm(state, name, channels):
    state[f"{name}.weight"] = torch.rand(channels) + 0.5
    state[f"{name}.bias"] = torch.randn(channels) * 0.2
    state[f"{name}.running_mean"] = torch.randn(channels) * 0.2
    state[f"{name}.running_var"] = torch.rand(channels) + 0.5
    state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def linear(state, name, inside, outside):
    state[f"{name}.weight"] = torch.randn(outside, inside) * inside**-0.5
    state[f"{name}.bias"] = torch.randn(outside)


class Public:
    """A state dict and the operations on its tensors."""

    def __init__(self, state):
        self.state = state

    def conv(self, features, name, stride=1, padding=1):
        return functional.conv2d(features, self.state[f"{name}.weight"], None, stride, padding)

    def norm(self, features, name):
        keys = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(features, *(self.state[f"{name}.{key}"] for key in keys))

    def head(self, features, name):
        pooled = features.mean(dim=(2, 3))
        return pooled @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]


def trades_wide_resnet(blocks=2, width=2, classes=4):
    """yaodongyu/TRADES models/wideresnet.py, with its sub-block that is never called."""
    torch.manual_seed(0)
    state, sizes = {}, [16, 16 * width, 32 * width, 64 * width]
    conv(state, "conv1", 3, 16)
    for stage, name in [(0, "block1"), (0, "sub_block1"), (1, "block2"), (2, "block3")]:
        for number in range(blocks):
            inside, block = sizes[stage + (number > 0)], f"{name}.layer.{number}"
            norm(state, f"{block}.bn1", inside)
            conv(state, f"{block}.conv1", inside, sizes[stage + 1])
            norm(state, f"{block}.bn2", sizes[stage + 1])
            conv(state, f"{block}.conv2", sizes[stage + 1], sizes[stage + 1])
            if number == 0:
                conv(state, f"{block}.convShortcut", inside, sizes[stage + 1], 1)
    norm(state, "bn1", sizes[3])
    linear(state, "fc", sizes[3], classes)
    return state


def trades_forward(state, images, blocks=2):
    net = Public(state)
    features = net.conv(images, "conv1")
    for stage in (1, 2, 3):
        for number in range(blocks):
            block, stride = f"block{stage}.layer.{number}", 2 if stage > 1 and number == 0 else 1
            active = net.norm(features, f"{block}.bn1").relu()
            hidden = net.norm(net.conv(active, f"{block}.conv1", stride), f"{block}.bn2").relu()
            if number == 0:
                features = net.conv(active, f"{block}.convShortcut", stride, 0)
            features = features + net.conv(hidden, f"{block}.conv2")
    return net.head(net.norm(features, "bn1").relu(), "fc")


def deepmind_wide_resnet(blocks=2, width=2, classes=4):
    """RobustBench dm_wide_resnet.py, after DeepMind's adversarial_robustness."""
    torch.manual_seed(1)
    state, sizes = {}, [16, 16 * width, 32 * width, 64 * width]
    conv(state, "init_conv", 3, 16)
    for stage in range(3):
        for number in range(blocks):
            inside, block = sizes[stage + (number > 0)], f"layer.{stage}.block.{number}"
            norm(state, f"{block}.batchnorm_0", inside)
            conv(state, f"{block}.conv_0", inside, sizes[stage + 1])
            norm(state, f"{block}.batchnorm_1", sizes[stage + 1])
            conv(state, f"{block}.conv_1", sizes[stage + 1], sizes[stage + 1])
            if number == 0:
                conv(state, f"{block}.shortcut", inside, sizes[stage + 1], 1)
    norm(state, "batchnorm", sizes[3])
    linear(state, "logits", sizes[3], classes)
    return state


def deepmind_forward(state, images, blocks=2):
    net, silu = Public(state), functional.silu
    features = net.conv(images, "init_conv")
    for stage in range(3):
        for number in range(blocks):
            block, halves = f"layer.{stage}.block.{number}", stage > 0 and number == 0
            active = silu(net.norm(features, f"{block}.batchnorm_0"))
            padded = functional.pad(active, [0, 1, 0, 1] if halves else [1, 1, 1, 1])
            stride = 2 if halves else 1
            hidden = net.conv(padded, f"{block}.conv_0", stride, 0)
            hidden = silu(net.norm(hidden, f"{block}.batchnorm_1"))
            if number == 0:
                features = net.conv(active, f"{block}.shortcut", stride, 0)
            features = features + net.conv(hidden, f"{block}.conv_1")
    return net.head(silu(net.norm(features, "batchnorm")), "logits")


def preact_resnet(final_norm, head="linear", width=4, classes=4):
    """RobustBench resnet.py, PreActResNet-18 of Rice et al. and of Wong et al."""
    torch.manual_seed(2)
    state, sizes = {}, [width, width, 2 * width, 4 * width, 8 * width]
    conv(state, "conv1", 3, width)
    for stage in range(4):
        for number in range(2):
            inside, block = sizes[stage + (number > 0)], f"layer{stage + 1}.{number}"
            norm(state, f"{block}.bn1", inside)
            conv(state, f"{block}.conv1", inside, sizes[stage + 1])
            norm(state, f"{block}.bn2", sizes[stage + 1])
            conv(state, f"{block}.conv2", sizes[stage + 1], sizes[stage + 1])
            if number == 0 and stage > 0:
                conv(state, f"{block}.shortcut.0", inside, sizes[stage + 1], 1)
    if final_norm:
        norm(state, "bn", sizes[4])
    linear(state, head, sizes[4], classes)
    return state


def preact_forward(state, images, reads, head="linear"):
    net = Public(state)
    features = net.conv(images, "conv1")
    for stage in range(1, 5):
        for number in range(2):
            block, stride = f"layer{stage}.{number}", 2 if stage > 1 and number == 0 else 1
            active = net.norm(features, f"{block}.bn1").relu()
            hidden = net.norm(net.conv(active, f"{block}.conv1", stride), f"{block}.bn2").relu()
            if stride == 2:
                source = active if reads == "activated" else features
                features = net.conv(source, f"{block}.shortcut.0", stride, 0)
            features = features + net.conv(hidden, f"{block}.conv2")
    if "bn.weight" in state:
        features = net.norm(features, "bn").relu()
    return net.head(features, head)


def bottleneck_resnet(shortcut, head, width=4, classes=4):
    """A ResNet-50 with the names of the CIFAR files (shortcut, linear) or torchvision's."""
    torch.manual_seed(3)
    state, inside = {}, width
    conv(state, "conv1", 3, width)
    norm(state, "bn1", width)
    for stage, count in enumerate((3, 4, 6, 3)):
        inner = width * 2**stage
        for number in range(count):
            block = f"layer{stage + 1}.{number}"
            shapes = [(inside, inner, 1), (inner, inner, 3), (inner, 4 * inner, 1)]
            for index, (a, b, size) in enumerate(shapes, start=1):
                conv(state, f"{block}.conv{index}", a, b, size)
                norm(state, f"{block}.bn{index}", b)
            if number == 0:
                conv(state, f"{block}.{shortcut}.0", inside, 4 * inner, 1)
                norm(state, f"{block}.{shortcut}.1", 4 * inner)
            inside = 4 * inner
    linear(state, head, inside, classes)
    return state


def bottleneck_forward(state, images, shortcut, head):
    net = Public(state)
    features = net.norm(net.conv(images, "conv1"), "bn1").relu()
    for stage, count in enumerate((3, 4, 6, 3)):
        for number in range(count):
            block, stride = f"layer{stage + 1}.{number}", 2 if stage and number == 0 else 1
            hidden = net.norm(net.conv(features, f"{block}.conv1", 1, 0), f"{block}.bn1").relu()
            hidden = net.norm(net.conv(hidden, f"{block}.conv2", stride), f"{block}.bn2").relu()
            hidden = net.norm(net.conv(hidden, f"{block}.conv3", 1, 0), f"{block}.bn3")
            if number == 0:
                projected = net.conv(features, f"{block}.{shortcut}.0", stride, 0)
                features = net.norm(projected, f"{block}.{shortcut}.1")
            features = (features + hidden).relu()
    return net.head(features, head)


@pytest.fixture
def wide():
    return WideResNet(depth=16, width=2, classes=4, **PLAIN)


@pytest.mark.parametrize("prefix", ["", "module.", "module.model."])
def test_weights_of_trades_give_the_logits_of_its_wide_resnet(wide, prefix, images):
    state = trades_wide_resnet()
    network = load_pretrained(wide, {prefix + name: value for name, value in state.items()})
    assert network is wide
    assert not network.training
    torch.testing.assert_close(network(images), trades_forward(state, images))


def test_weights_of_deepmind_give_the_logits_of_its_wide_resnet(images):
    state = deepmind_wide_resnet()
    network = WideResNet(
        depth=16, width=2, classes=4, activation="silu", padding="one_side", **PLAIN
    )
    torch.testing.assert_close(
        load_pretrained(network, state)(images), deepmind_forward(state, images)
    )


@pytest.mark.parametrize("head", ["linear", "fc"])
@pytest.mark.parametrize("final_norm", [True, False])
@pytest.mark.parametrize("reads", ["activated", "raw"])
def test_weights_of_a_preact_resnet_give_its_logits(reads, final_norm, head, images):
    state = preact_resnet(final_norm, head)
    network = PreActResNet(width=4, classes=4, shortcut=reads, final_norm=final_norm, **PLAIN)
    expected = preact_forward(state, images, reads, head)
    torch.testing.assert_close(load_pretrained(network, state)(images), expected)


@pytest.mark.parametrize("names", [("shortcut", "linear"), ("downsample", "fc")])
def test_weights_of_a_resnet_give_its_logits(names, images):
    state = bottleneck_resnet(*names)
    network = load_pretrained(ResNet(depth=50, width=4, classes=4, **PLAIN), state)
    torch.testing.assert_close(network(images), bottleneck_forward(state, images, *names))


def test_without_a_stored_normalisation_the_networks_is_kept(images):
    state = trades_wide_resnet()
    network = WideResNet(depth=16, width=2, classes=4, mean=[0.4] * 3, std=[0.2] * 3)
    expected = trades_forward(state, (images - 0.4) / 0.2)
    torch.testing.assert_close(load_pretrained(network, state)(images), expected)


def test_a_stored_normalisation_must_equal_the_networks(wide):
    state = trades_wide_resnet()
    state |= {"mu": torch.full((1, 3, 1, 1), 0.4), "sigma": torch.full((1, 3, 1, 1), 0.2)}
    with pytest.raises(ValueError, match=r"normalise.mean \[0.4.*got \[0.0.*build the network"):
        load_pretrained(wide, state)
    load_pretrained(WideResNet(depth=16, width=2, classes=4, mean=[0.4] * 3, std=[0.2] * 3), state)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_of_tensors_are_read(wide, suffix, nested, images, tmp_path):
    state, path = trades_wide_resnet(), tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": state, "epoch": 3} if nested else state, path)
    else:
        safetensors.torch.save_file(state, path)
    torch.testing.assert_close(load_pretrained(wide, path)(images), trades_forward(state, images))


class FailsWhenLoaded:
    """Fails the test when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("what", ["pickle", "text", "missing", "list"])
def test_files_of_anything_else_are_refused(wide, what, tmp_path):
    path = tmp_path / "weights.pt"
    if what == "text":
        path.write_text("weights")
    elif what != "missing":
        torch.save({"state_dict": FailsWhenLoaded()} if what == "pickle" else [1, 2], path)
    messages = {"missing": "does not exist", "list": "holds no state dict"}
    rule = messages.get(
        what, "cannot be read as tensors and plain values.* Write the weights alone"
    )
    with pytest.raises(RunError, match=rule):
        load_pretrained(wide, path)


def test_a_broken_safetensors_file_is_refused(wide, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\0" * 20)
    with pytest.raises(RunError, match="cannot be read as tensors"):
        load_pretrained(wide, path)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda s: s.pop("bn1.weight"), "missing: norm.weight. Build"),
        (lambda s: s.update({"head.weight": torch.ones(1)}), "left over: head.weight. Build"),
        (lambda s: s.update({"fc.bias": torch.ones(3)}), "of another shape: linear.bias. Build"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_the_network_is_left_alone(wide, change, rule):
    state = trades_wide_resnet()
    change(state)
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    with pytest.raises(ValueError, match=rf"do not fit this WideResNet: {rule}"):
        load_pretrained(wide, state)
    torch.testing.assert_close(dict(wide.state_dict()), before, rtol=0, atol=0)


def test_a_deeper_networks_weights_are_left_over(wide):
    with pytest.raises(ValueError, match=r"left over: block1.layer.2.bn1.weight, .* and \d+ more"):
        load_pretrained(wide, trades_wide_resnet(blocks=3))


def test_batch_counters_may_be_missing(wide, images):
    state = trades_wide_resnet()
    old = {name: value for name, value in state.items() if not name.endswith("_tracked")}
    torch.testing.assert_close(load_pretrained(wide, old)(images), trades_forward(state, images))


@pytest.mark.parametrize(
    ("padding", "state"),
    [("both_sides", deepmind_wide_resnet), ("one_side", trades_wide_resnet)],
)
def test_padding_other_than_the_projects_is_refused(padding, state):
    network = WideResNet(depth=16, width=2, classes=4, padding=padding, **PLAIN)
    with pytest.raises(ValueError, match=rf"belong to a network with padding=.* got.*{padding}"):
        load_pretrained(network, state())


def test_names_of_an_unknown_project_are_refused(wide):
    with pytest.raises(
        ValueError, match=r"must hold one of block1.layer.0.conv1.weight.* got stem"
    ):
        load_pretrained(wide, {"stem.weight": torch.ones(1)})


def test_networks_other_than_backbones_are_refused(wide):
    with pytest.raises(ValueError, match="got a network of kind branched"):
        load_pretrained(with_branches(wide, 2), trades_wide_resnet())


def test_every_renaming_rule_is_used():
    states = {
        "block1": [trades_wide_resnet() | {"mu": 0, "sigma": 0}],
        "layer.0": [deepmind_wide_resnet() | {"mean": 0, "std": 0}],
        "layer1": [
            preact_resnet(True) | {"mu": 0, "sigma": 0},
            bottleneck_resnet("shortcut", "fc"),
        ],
    }
    for layout in [layout for group in LAYOUTS.values() for layout in group]:
        given = [s for start, group in states.items() for s in group if start in layout.marker]
        for pattern, _, _ in layout.rules:
            assert any(re.match(pattern, name) for state in given for name in state), pattern


@pytest.mark.parametrize("new_head", [False, True])
def test_our_backbones_start_from_published_names(tmp_path, new_head):
    theirs = bottleneck_resnet("downsample", "fc", classes=4)
    torch.save(theirs, tmp_path / "resnet50.pth")
    shape = ImportedNetwork(
        function="equipoise.models:ResNet",
        arguments={"depth": 50, "width": 4, "mean": [0.0] * 3, "std": [1.0] * 3},
        weights=tmp_path / "resnet50.pth",
        new_head=new_head,
    )
    part = Split(images=torch.zeros(4, 3, 8, 8).byte(), labels=torch.arange(4), classes=4)
    data = DataSet(name="a", train=part, test=part, class_names=tuple("abcd"))
    with trusting("equipoise.models"):
        made = shape.maker(data)()
    assert torch.equal(made.network.conv.weight, theirs["conv1.weight"])
    assert torch.equal(made.network.linear.weight, theirs["fc.weight"]) is not new_head
    assert made.training
