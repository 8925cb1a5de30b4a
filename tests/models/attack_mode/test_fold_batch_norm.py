"""Folding keeps logits and gradients of all networks that can be folded."""

from functools import partial

import pytest
import tiny
import torch
from torch import nn

from equipoise.attacks.goals import cross_entropy
from equipoise.attacks.threat import Linf
from equipoise.distributed.sync_batch_norm import synchronised
from equipoise.methods import TrainingAttack, training_attack
from equipoise.models import (
    AdaptiveNetwork,
    FeatureStack,
    MultiBatchNorm2d,
    PreActResNet,
    ResNet,
    WideResNet,
    fuse_branches,
    with_branches,
    with_conditioning,
)
from equipoise.models.attack_mode.context import attack_mode
from equipoise.models.attack_mode.fold_batch_norm import fold_batch_norms
from equipoise.models.last_linear import features_and_logits

BACKBONES = {
    "wrn_10": lambda: WideResNet(depth=10, width=1, classes=5),
    "wrn_16": lambda: WideResNet(depth=16, width=1, classes=5),  # identity shortcuts
    "resnet_18": lambda: ResNet(depth=18, width=4, classes=5),
    "resnet_50": lambda: ResNet(depth=50, width=2, classes=5),
    "preact": lambda: PreActResNet(width=4, classes=5),
    "preact_raw": lambda: PreActResNet(width=4, classes=5, shortcut="raw", final_norm=False),
    "preact_raw_with_norm": lambda: PreActResNet(width=4, classes=5, shortcut="raw"),
}


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every norm random statistics, shifts and scales of both signs, in float64."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            if module.affine:
                nn.init.uniform_(module.weight, -1.0, 1.5, generator=generator)
                nn.init.normal_(module.bias, std=0.3, generator=generator)
            module.running_mean.normal_(std=0.3, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
        if isinstance(module, MultiBatchNorm2d) and module.separate != "both":
            nn.init.uniform_(module.weight, -1.0, 1.5, generator=generator)
            nn.init.normal_(module.bias, std=0.3, generator=generator)
    return network.double().eval()


def images(count: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.rand(count, 3, 16, 16, generator=generator, dtype=torch.float64)


def value_and_gradient(call, pixels):
    pixels = pixels.clone().requires_grad_(True)
    logits = call(pixels)
    (gradient,) = torch.autograd.grad(logits.square().sum(), pixels)
    return logits.detach(), gradient


def folded(network: nn.Module) -> list[nn.Module]:
    kinds = (WideResNet, ResNet, PreActResNet)
    return [m for m in network.modules() if isinstance(m, kinds) and "forward" in vars(m)]


def check_same(network: nn.Module, call, count: int = 1) -> None:
    expected = value_and_gradient(call, images())
    with attack_mode(network, fold=True):
        assert len(folded(network)) == count
        result = value_and_gradient(call, images())
    assert not folded(network)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", BACKBONES)
def test_folding_keeps_value_and_gradient(name):
    network = randomised(BACKBONES[name]())
    check_same(network, network)


@pytest.mark.parametrize("name", BACKBONES)
def test_folding_handles_odd_sizes_biases_and_norms_without_affine_maps(name):
    network = BACKBONES[name]()
    for module in list(network.modules()):
        for child_name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d):
                child.bias = nn.Parameter(torch.linspace(-1, 1, child.out_channels))
            if isinstance(child, nn.BatchNorm2d) and child_name in ("norm1", "1"):
                setattr(module, child_name, nn.BatchNorm2d(child.num_features, affine=False))
    network = randomised(network)
    for size in ((9, 13), (8, 11)):
        expected = value_and_gradient(network, images(3)[:, :, : size[0], : size[1]])
        with attack_mode(network, fold=True):
            assert folded(network)
            result = value_and_gradient(network, images(3)[:, :, : size[0], : size[1]])
        torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("separate", ["both", "statistics", "affine"])
@pytest.mark.parametrize("branch", [1, (0, 2), (2, 1, 2, 0)])
@pytest.mark.parametrize("name", BACKBONES)
def test_folding_follows_each_branch_and_groups_of_branches(name, branch, separate):
    network = randomised(with_branches(BACKBONES[name](), 3, separate))
    check_same(network, partial(network, branch=branch))


def test_members_of_a_stack_are_folded():
    members = [randomised(BACKBONES[name]()) for name in ("wrn_10", "resnet_18")]
    stack = FeatureStack(members, 5).double().eval()
    check_same(stack, stack, count=2)


def test_penultimate_features_are_read_from_a_folded_network():
    network = randomised(BACKBONES["wrn_10"]())
    expected = features_and_logits(network, images())
    with attack_mode(network, fold=True):
        result = features_and_logits(network, images())
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)


def test_any_head_is_called_unchanged():
    network = randomised(BACKBONES["wrn_10"]())
    for head in (nn.Identity(), nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 5))):
        network.linear = head.double()
        check_same(network, network)


def test_every_fold_uses_the_current_weights():
    network = randomised(BACKBONES["wrn_10"]())
    with attack_mode(network, fold=True):
        before = network(images())
    with torch.no_grad():
        network.conv.weight.mul_(2)
        network.norm.running_mean.add_(1)
    with attack_mode(network, fold=True):
        after = network(images())
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, network(images()))


def test_folding_is_as_accurate_as_autograd_in_bfloat16():
    network = randomised(BACKBONES["wrn_16"]())
    exact = value_and_gradient(network, images(32))
    network = network.float().to(memory_format=torch.channels_last)
    pixels = images(32).float().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        with attack_mode(network):
            plain = value_and_gradient(network, pixels)
        with attack_mode(network, fold=True):
            result = value_and_gradient(network, pixels)
    for ours, theirs, truth in zip(result, plain, exact, strict=True):
        assert ours.dtype == theirs.dtype
        error = (theirs - truth).square().mean().sqrt()
        assert (ours - truth).square().mean().sqrt() < 1.5 * error


def test_float64_is_kept_under_autocast():
    network = randomised(BACKBONES["wrn_16"]())
    with torch.autocast("cpu", torch.bfloat16):
        check_same(network, network)


def test_weights_that_change_after_the_forward_pass_do_not_change_its_gradient():
    network = randomised(BACKBONES["wrn_16"]())
    _, expected = value_and_gradient(network, images())
    pixels = images().requires_grad_(True)
    with attack_mode(network, fold=True):
        loss = network(pixels).square().sum()
    with torch.no_grad():
        for part in (network.conv, network.stages, network.norm):
            for tensor in part.state_dict().values():
                tensor.mul_(3)
    torch.testing.assert_close(torch.autograd.grad(loss, pixels)[0], expected)


def test_synchronised_norms_are_folded():
    network = randomised(BACKBONES["wrn_16"]())
    with synchronised(network):
        check_same(network, network)


def test_a_training_attack_finds_the_same_images(monkeypatch):
    network, labels = randomised(BACKBONES["wrn_10"]()), torch.arange(4)
    goal = cross_entropy(network, labels)

    def attack():
        with TrainingAttack(steps=3).against(network) as search:
            return search(goal, images(), Linf(8 / 255), torch.Generator().manual_seed(0))

    result = attack()
    seen = []

    def unfolded(module, mode, fold):
        seen.append(fold)
        return attack_mode(module, mode)

    monkeypatch.setattr(training_attack, "attack_mode", unfolded)
    torch.testing.assert_close(result, attack())
    assert seen == [True]


class Subclass(WideResNet):
    """May compute anything."""


def hooked(network: nn.Module) -> nn.Module:
    network.stages[0][0].conv1.register_forward_hook(lambda module, inputs, output: output * 2)
    return network


def replaced(name: str, module: nn.Module, make=BACKBONES["wrn_10"]) -> nn.Module:
    network = make()
    network.set_submodule(name, module)
    return network


def without_statistics(network: nn.Module) -> nn.Module:
    network.norm = nn.BatchNorm2d(network.norm.num_features, track_running_stats=False)
    return network


def patched(network: nn.Module) -> nn.Module:
    network.stages[0][0].forward = lambda features: features
    return network


def appended(name: str, module: nn.Module, make=BACKBONES["wrn_10"]) -> nn.Module:
    network = make()
    network.get_submodule(name).append(module)
    return network


class UnrelatedAttribute(nn.Linear):
    """Has an attribute ``structure`` with another meaning."""

    structure = "chest"


class UnrelatedMethod(nn.Linear):
    """Has a method ``structure`` with another meaning."""

    def structure(self):
        return ["chest"]


def adaptive() -> AdaptiveNetwork:
    return fuse_branches(with_branches(BACKBONES["wrn_10"](), 2), placement="input")


@pytest.mark.parametrize(
    "make",
    [
        lambda: WideResNet(depth=10, width=1, classes=5, activation="silu"),
        lambda: WideResNet(depth=10, width=1, classes=5, padding="one_side"),
        lambda: ResNet(depth=18, width=4, classes=5, stem="imagenet"),
        lambda: ResNet(depth=18, width=4, classes=5, activation="silu"),
        lambda: PreActResNet(width=4, classes=5, activation="silu"),
        lambda: Subclass(depth=10, width=1, classes=5),
        lambda: hooked(BACKBONES["wrn_10"]()),
        lambda: replaced("stages.0.0.activation2", nn.Tanh()),
        lambda: replaced("stages.0.0.activation2", nn.Identity()),
        lambda: replaced("stages.0.0.norm1", nn.Identity()),
        lambda: replaced("stages.0.0.conv2", nn.Sequential(nn.Conv2d(16, 16, 1))),
        lambda: replaced("activation", nn.Identity()),
        lambda: replaced("stages.1", nn.Sequential(nn.Sequential(nn.ReLU()))),
        lambda: replaced("stages.1.0", nn.Identity()),
        lambda: replaced("stages.1.0.shortcut", nn.Conv2d(4, 8, 1), BACKBONES["resnet_18"]),
        lambda: replaced("norm", nn.BatchNorm2d(32), BACKBONES["preact_raw"]),
        lambda: replaced("activation", nn.ReLU(), BACKBONES["preact_raw"]),
        lambda: replaced("pool", nn.Conv2d(4, 4, 1), BACKBONES["resnet_18"]),
        lambda: appended("stages", nn.ReLU()),
        lambda: appended("stages", nn.BatchNorm2d(64)),
        lambda: appended("stages", nn.Sequential(nn.Conv2d(64, 64, 1))),
        lambda: appended("stages.1", nn.ReLU()),
        lambda: appended("stages.1.0.shortcut", nn.ReLU(), BACKBONES["resnet_18"]),
        lambda: UnrelatedAttribute(3, 2),
        lambda: UnrelatedMethod(3, 2),
        lambda: replaced("pool", nn.MaxPool2d(2), BACKBONES["resnet_18"]),
        lambda: without_statistics(BACKBONES["wrn_10"]()),
        lambda: patched(BACKBONES["wrn_10"]()),
        lambda: adaptive().network,
        lambda: with_conditioning(BACKBONES["wrn_10"]()).network,
        lambda: tiny.linear(),
    ],
)
def test_networks_that_cannot_be_folded_are_left_alone(make):
    network = make()
    assert fold_batch_norms(network) is None
    with attack_mode(network, fold=True):
        assert not folded(network)


def test_in_train_mode_nothing_is_folded():
    network = BACKBONES["wrn_10"]()
    with attack_mode(network, "train", fold=True):
        assert not folded(network)
    with attack_mode(network, fold=True):
        network.train()
        result = network(images().float())
    network.train()
    torch.testing.assert_close(result, network(images().float()))


def test_a_folded_network_refuses_a_batch_that_does_not_split():
    network = with_branches(BACKBONES["wrn_10"](), 2)
    with (
        attack_mode(network, fold=True),
        pytest.raises(ValueError, match="does not split into 2 equal groups"),
    ):
        network(images(3).float(), branch=(0, 1))


def test_a_folded_network_refuses_unsuitable_images():
    network = BACKBONES["wrn_10"]()
    with (
        attack_mode(network, fold=True),
        pytest.raises(ValueError, match="images must have 3 channels"),
    ):
        network(torch.rand(2, 1, 16, 16))
    with attack_mode(network, fold=True), pytest.raises(ValueError, match="at least 8x8 pixels"):
        network(torch.rand(2, 3, 16, 7))
    with (
        attack_mode(network, fold=True),
        pytest.raises(RuntimeError, match="Double but found Float"),
    ):
        network(images())


def test_a_second_derivative_is_refused():
    network = randomised(BACKBONES["wrn_10"]())
    pixels = images().requires_grad_(True)
    with attack_mode(network, fold=True):
        loss = network(pixels).square().sum()
        (gradient,) = torch.autograd.grad(loss, pixels, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()
