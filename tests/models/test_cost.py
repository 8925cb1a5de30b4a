"""Published costs, checked on the meta device without memory or arithmetic."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from equipoise.models import (
    FeatureStack,
    PreActResNet,
    ResNet,
    WideResNet,
    count_multiply_adds,
    count_parameters,
    fuse_branches,
    with_branches,
)

SMALL, IMAGENET = (3, 32, 32), (3, 224, 224)


def on_meta(make, **settings):
    with torch.device("meta"):
        return make(**({"classes": 10} | settings))


def cut(number: float, digits: int) -> float:
    """Truncate as AFS does: it prints 36.479 as 36.47."""
    return math.floor(number * 10**digits) / 10**digits


def with_norms(network, shape) -> int:
    """Count multiply-adds as AFS's tool does: a norm has two for each feature."""
    features = []

    def record(module, inputs, output):
        features.append(output.numel())

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(record)
    return count_multiply_adds(network, shape) + 2 * sum(features)


@pytest.mark.parametrize(
    ("width", "millions", "digits", "billions"), [(10, 36.47, 2, 5.24), (30, 328, 0, 47.04)]
)
def test_the_baseline_and_the_large_model_of_afs_table_6(width, millions, digits, billions):
    network = on_meta(WideResNet, depth=28, width=width)
    assert cut(count_parameters(network) / 1e6, digits) == millions
    assert cut(with_norms(network, SMALL) / 1e9, 2) == billions
    assert count_multiply_adds(network, SMALL) / 1e9 == pytest.approx(billions, rel=1e-3)


def test_the_stack_of_afs_table_6_is_six_times_the_baseline():
    """The paper multiplies its rounded figures by six; ours include the merger."""
    with torch.device("meta"):
        stack = FeatureStack([WideResNet(depth=28, width=10, classes=10)] * 6, classes=10)
    alone = on_meta(WideResNet, depth=28, width=10)
    assert round(6 * cut(count_parameters(alone) / 1e6, 2), 2) == 218.82
    assert round(6 * cut(with_norms(alone, SMALL) / 1e9, 2), 2) == 31.44
    assert count_parameters(stack) / 1e6 == pytest.approx(218.82, rel=1e-3)
    assert count_multiply_adds(stack, SMALL) / 1e9 == pytest.approx(31.44, rel=1e-3)
    merger = 6 * 640 * 10
    assert count_parameters(stack) == 6 * count_parameters(alone) + merger + 10
    assert count_multiply_adds(stack, SMALL) == 6 * count_multiply_adds(alone, SMALL) + merger


@pytest.mark.parametrize(
    ("make", "settings", "millions"),
    [
        (WideResNet, {"depth": 16, "width": 8}, 10.96),
        (WideResNet, {"depth": 34, "width": 10}, 46.16),
        (WideResNet, {"depth": 40, "width": 2}, 2.24),
        (ResNet, {"depth": 34}, 21.28),
        (PreActResNet, {}, 11.17),
    ],
)
def test_parameters_are_those_of_other_papers(make, settings, millions):
    assert count_parameters(on_meta(make, **settings)) / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize(
    ("depth", "parameters", "billions"),
    [(18, 11_689_512, 1.814), (34, 21_797_672, 3.664), (50, 25_557_032, 4.089)],
)
def test_resnets_for_imagenet_have_their_published_cost(depth, parameters, billions):
    network = on_meta(ResNet, depth=depth, classes=1000, stem="imagenet")
    assert count_parameters(network) == parameters
    assert count_multiply_adds(network, IMAGENET) / 1e9 == pytest.approx(billions, abs=5e-4)


@pytest.mark.parametrize(
    ("depth", "parameters", "billions"), [(18, 11_173_962, 0.5554), (50, 23_520_842, 1.2978)]
)
def test_resnets_for_small_images_have_their_published_cost(depth, parameters, billions):
    network = on_meta(ResNet, depth=depth)
    assert count_parameters(network) == parameters
    assert count_multiply_adds(network, SMALL) / 1e9 == pytest.approx(billions, abs=5e-5)


def test_multiply_adds_of_a_network_counted_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 64, 7))
    network[1].train()
    assert count_multiply_adds(network, (3, 8, 8)) == 3 * 5 * 9 * 64 + 5 * 64 * 7
    assert network.training


def test_branches_add_parameters_but_no_multiply_adds():
    network = on_meta(WideResNet, depth=10, width=1)
    branched = with_branches(network, 3)
    norms = sum(2 * m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert count_parameters(branched) == count_parameters(network) + 2 * norms
    through = partial(branched, branch=2)
    assert count_multiply_adds(branched, SMALL, through) == count_multiply_adds(network, SMALL)


def test_a_fused_afa_counts_the_affine_maps_of_both_branches():
    """36,479,194 parameters of WRN-28-10, a second gamma and beta for each norm, the generator."""
    plain = on_meta(WideResNet, depth=28, width=10)
    norms = sum(2 * m.num_features for m in plain.modules() if isinstance(m, nn.BatchNorm2d))
    with torch.device("meta"):
        fused = fuse_branches(with_branches(plain, 5), placement="input")
    generator = sum(p.numel() for p in fused.generator_parameters())
    assert count_parameters(plain) == 36_479_194
    assert count_parameters(fused) == 36_479_194 + norms + generator
