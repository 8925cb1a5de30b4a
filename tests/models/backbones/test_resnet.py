import pytest
import torch
from torch import nn

from equipoise.models import PreActResNet, ResNet


@pytest.mark.parametrize("make", [ResNet, PreActResNet])
@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_accepts_the_image_sizes_of_the_data_sets(make, size):
    network = make(depth=18, width=4, classes=5, channels=1).eval()
    assert network(torch.rand(2, 1, size, size)).shape == (2, 5)


def test_the_small_stem_keeps_the_image_size_and_the_imagenet_stem_quarters_it():
    images = torch.rand(1, 3, 64, 64)
    sizes = []
    for stem in ("small", "imagenet"):
        network = ResNet(depth=18, width=4, classes=3, stem=stem).eval()
        network.stages.register_forward_hook(
            lambda module, inputs, output: sizes.append((inputs[0].shape[2], output.shape[2]))
        )
        network(images)
    assert sizes == [(64, 8), (16, 2)]


@pytest.mark.parametrize(
    "network",
    [
        ResNet(depth=18, width=4, classes=3),
        ResNet(depth=50, width=4, classes=3),
        PreActResNet(width=4, classes=3),
        PreActResNet(width=4, classes=3, shortcut="raw", final_norm=False),
    ],
    ids=["18", "50", "preact", "preact_raw"],
)
def test_every_parameter_gets_a_gradient(network, images):
    network(images).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_silu_replaces_every_activation():
    for make in (ResNet, PreActResNet):
        kinds = {
            type(module)
            for module in make(depth=18, width=4, classes=3, activation="silu").modules()
            if isinstance(module, nn.ReLU | nn.SiLU)
        }
        assert kinds == {nn.SiLU}


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
    ("make", "settings", "rule"),
    [
        (ResNet, {"depth": 20}, r"depth must be one of \[18, 34, 50\], got 20"),
        (ResNet, {"stem": "large"}, "stem must be one of .* got 'large'"),
        (ResNet, {"width": 0}, "width must be 1 or more, got 0"),
        (ResNet, {"classes": 1}, "classes 2 or more, got 3 and 1"),
        (PreActResNet, {"depth": 50}, "depth must be 18 or 34, got 50"),
        (PreActResNet, {"shortcut": "none"}, "shortcut must be one of .* got 'none'"),
        (PreActResNet, {"width": 0}, "width must be 1 or more, got 0"),
        (PreActResNet, {"activation": "tanh"}, "activation must be one of .* got 'tanh'"),
    ],
)
def test_settings_out_of_range_are_refused(make, settings, rule):
    with pytest.raises(ValueError, match=rule):
        make(**({"depth": 18, "classes": 3} | settings))
