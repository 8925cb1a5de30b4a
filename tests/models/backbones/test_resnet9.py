import pytest
import torch

from equipoise.models import ResNet9, count_parameters, load, save, with_branches
from equipoise.models.cost import count_multiply_adds
from equipoise.models.last_linear import find_last_linear


def test_the_default_is_the_network_of_dawnbench():
    network = ResNet9(classes=10)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) + 1 == 9  # and the linear layer
    assert count_parameters(network) == 6_573_130


def test_a_group_halves_the_image():
    network = ResNet9(classes=10, widths=(4, 6, 8, 10), residual=(1, 0, 2)).eval()
    features = network.groups(network.stem(torch.rand(1, 3, 32, 32)))
    assert features.shape == (1, 10, 4, 4)


def test_residual_convolutions_add_to_their_input():
    network = ResNet9(classes=10, widths=(4, 4, 4, 4), residual=(1, 1, 1)).eval()
    group = network.groups[0]
    features = torch.rand(2, 4, 8, 8)
    entered = group.entry(features)
    assert torch.equal(group(features), entered + group.residual(entered))


@pytest.mark.parametrize("size", [(3, 32, 32), (1, 8, 8), (3, 64, 64)])
def test_it_takes_the_images_of_every_data_set(size):
    network = ResNet9(classes=7, channels=size[0], widths=(4, 4, 4, 4)).eval()
    assert network(torch.rand(2, *size)).shape == (2, 7)


def test_it_takes_branches_and_has_a_last_linear_layer():
    network = ResNet9(classes=10, widths=(4, 4, 8, 8))
    assert find_last_linear(network) is not None
    branched = with_branches(network, 3)
    assert branched(torch.rand(2, 3, 32, 32), branch=2).shape == (2, 10)


def test_a_saved_network_comes_back(tmp_path):
    network = ResNet9(classes=10, widths=(4, 4, 8, 8), residual=(1, 1, 1), pooling="average").eval()
    save(network, tmp_path)
    loaded = load(tmp_path)
    images = torch.rand(2, 3, 32, 32)
    assert loaded.config == network.config
    assert torch.equal(loaded(images), network(images))


def test_the_compact_widths_cost_about_as_much_as_wrn_10_2():
    network = ResNet9(classes=10, widths=(24, 48, 96, 192), residual=(1, 1, 1))
    assert count_parameters(network) == 657_154
    assert count_multiply_adds(network, (3, 32, 32)) < 50_000_000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (4, 4, 4)}, r"widths must be four numbers .* got \(4, 4, 4\)"),
        ({"widths": (4, 4, 4, 0)}, "widths must be four"),
        ({"residual": (1, -1, 1)}, r"residual must be three numbers .* got \(1, -1, 1\)"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ResNet9(classes=10, **settings)
