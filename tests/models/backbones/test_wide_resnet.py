import pytest
import torch
from torch.nn import functional

from equipoise.models import WideResNet


@pytest.mark.parametrize("size", [8, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [2, 10])
def test_accepts_the_image_sizes_of_the_data_sets(size, channels, classes):
    network = WideResNet(depth=10, width=1, classes=classes, channels=channels).eval()
    logits = network(torch.rand(2, channels, size, size))
    assert logits.shape == (2, classes)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("depth", "width", "millions"), [(28, 10, 36.48), (16, 8, 10.96), (34, 10, 46.16)]
)
def test_the_number_of_parameters_is_the_papers(depth, width, millions):
    with torch.device("meta"):
        network = WideResNet(depth=depth, width=width, classes=10)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.01)


def test_padding_on_one_side_shifts_what_a_halving_convolution_sees():
    torch.manual_seed(0)
    network = WideResNet(depth=10, width=1, classes=3, padding="one_side").eval()
    halving = network.stages[1][0]
    features = torch.rand(2, 16, 8, 8)
    active = halving.activation1(halving.norm1(features))
    by_hand = functional.conv2d(
        functional.pad(active, [0, 1, 0, 1]), halving.conv1.weight, stride=2
    )
    seen = []
    halving.conv1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    halving(features)
    torch.testing.assert_close(seen[0], by_hand)
    symmetric = WideResNet(depth=10, width=1, classes=3).eval()
    symmetric.load_state_dict(network.state_dict())
    images = torch.rand(2, 3, 8, 8)
    assert not torch.allclose(network(images), symmetric(images))
    assert repr(network) != repr(symmetric)  # an evaluation identifies a model by its repr


@pytest.mark.parametrize("depth", [10, 16, 28])
def test_depth_counts_all_convolutions_including_shortcuts(depth):
    network = WideResNet(depth=depth, width=2, classes=3)
    assert sum(isinstance(m, torch.nn.Conv2d) for m in network.modules()) == depth


def test_normalisation_is_the_first_layer(images):
    torch.manual_seed(0)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.25, 0.1]
    network = WideResNet(depth=10, width=1, classes=3, mean=mean, std=std).eval()
    by_hand = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(network.normalise(images), by_hand)
    normalised = network(images)
    network.normalise = torch.nn.Identity()
    torch.testing.assert_close(network(by_hand), normalised)


def test_every_parameter_gets_a_gradient(images):
    network = WideResNet(depth=16, width=1, classes=3)
    network(images).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_the_config_builds_the_network_again(activation):
    network = WideResNet(depth=10, width=2, classes=4, channels=1, activation=activation)
    settings = {name: value for name, value in network.config.items() if name != "kind"}
    twin = WideResNet(**settings)
    twin.load_state_dict(network.state_dict())
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(twin.eval()(images), network.eval()(images))


@pytest.mark.parametrize("depth", [4, 9, 12, 29, -2])
def test_a_depth_that_is_not_6n_plus_4_is_refused(depth):
    with pytest.raises(ValueError, match=rf"depth must be 6 n \+ 4 .* got {depth}"):
        WideResNet(depth=depth, width=1, classes=3)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"width": 0}, "width must be 1 or more, got 0"),
        ({"classes": 1}, "channels must be 1 or more and classes 2 or more, got 3 and 1"),
        ({"channels": 0}, "channels must be 1 or more and classes 2 or more, got 0 and 3"),
        ({"activation": "tanh"}, "activation must be one of .* got 'tanh'"),
        ({"padding": "none"}, "padding must be one of .* got 'none'"),
    ],
)
@pytest.mark.usefixtures("no_shape_checks")
def test_settings_out_of_range_are_refused(settings, rule):
    with pytest.raises(ValueError, match=rule):
        WideResNet(**({"depth": 10, "width": 1, "classes": 3} | settings))


@pytest.mark.parametrize(
    ("channels", "mean", "std"),
    [
        (3, [0.5, 0.5, 0.5], [0.25, 0.0, 0.25]),
        (3, [0.5, 0.5, 0.5], [0.25]),
        (3, [0.5], [0.25]),
        (1, [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]),
    ],
)
def test_a_normalisation_that_does_not_fit_the_channels_is_refused(channels, mean, std):
    with pytest.raises(ValueError, match="one number for each channel"):
        WideResNet(depth=10, width=1, classes=3, channels=channels, mean=mean, std=std)


@pytest.mark.parametrize(
    ("built", "shape"), [(3, (2, 1, 8, 8)), (1, (2, 3, 8, 8)), (3, (2, 3, 7, 8)), (3, (2, 3, 8, 4))]
)
def test_other_channels_and_smaller_images_are_refused(built, shape):
    network = WideResNet(depth=10, width=1, classes=3, channels=built)
    with pytest.raises(ValueError, match=rf"images must have {built} channels and at least 8x8"):
        network(torch.rand(shape))
