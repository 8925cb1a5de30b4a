import copy

import pytest
import torch
from torch import nn

from equipoise.models.attack_mode.context import attack_mode


@pytest.fixture
def network():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten())
    network.train()
    network[1].eval()
    network[0].bias.requires_grad_(False)
    return network


@pytest.mark.parametrize(("mode", "training"), [("eval", False), ("train", True)])
def test_attack_mode_sets_every_mode_and_freezes_every_parameter(mode, training, network):
    with attack_mode(network, mode):
        assert {module.training for module in network.modules()} == {training}
        assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_restored_even_after_an_error(mode, fails, network, images):
    before = copy.deepcopy(network)
    try:
        with attack_mode(network, mode):
            network(images)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert [m.training for m in network.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in network.parameters()] == [
        p.requires_grad for p in before.parameters()
    ]
    torch.testing.assert_close(network.state_dict(), before.state_dict(), rtol=0, atol=0)


def test_train_mode_uses_the_statistics_of_the_attacked_batch(images):
    norm = nn.BatchNorm2d(3)
    with attack_mode(norm, "train"):
        assert norm(images).mean(dim=(0, 2, 3)).abs().max() < 1e-5
    with attack_mode(norm, "eval"):
        assert norm(images).mean(dim=(0, 2, 3)).abs().max() > 0.1


def test_buffers_keep_their_identity(images):
    norm = nn.BatchNorm2d(3)
    mean = norm.running_mean
    with attack_mode(norm, "train"):
        norm(images)
    assert norm.running_mean is mean


def test_gradients_still_reach_the_images(network, images):
    images.requires_grad_(True)
    with attack_mode(network, "eval"):
        (gradient,) = torch.autograd.grad(network(images).square().sum(), images)
    assert gradient.abs().max() > 0


def norm_with_statistics(affine: bool) -> nn.BatchNorm2d:
    generator = torch.Generator().manual_seed(3)
    norm = nn.BatchNorm2d(5, affine=affine).eval()
    norm.running_mean.normal_(generator=generator)
    norm.running_var.uniform_(0.1, 3.0, generator=generator)
    if affine:
        nn.init.normal_(norm.weight, generator=generator)
        nn.init.normal_(norm.bias, generator=generator)
    return norm


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_under_attack_has_pytorchs_value_and_gradient(affine, layout, dtype):
    norm, generator = norm_with_statistics(affine), torch.Generator().manual_seed(4)
    features, weights = torch.randn(2, 6, 5, 4, 4, generator=generator).to(dtype)
    features = features.contiguous(memory_format=layout).requires_grad_(True)
    expected_value = norm(features)
    (expected,) = torch.autograd.grad(expected_value, features, weights)
    with attack_mode(norm):
        value = norm(features)
        (gradient,) = torch.autograd.grad(value, features, weights)
    assert "FrozenNorm" in type(value.grad_fn).__name__
    assert torch.equal(value, expected_value)
    if dtype == torch.float32:
        assert torch.equal(gradient, expected)
    else:
        assert torch.allclose(gradient, expected, rtol=2**-6)
    assert "FrozenNorm" not in type(norm(features).grad_fn).__name__


def test_only_plain_norms_at_running_statistics_are_replaced():
    class Own(nn.BatchNorm2d):
        pass

    features = torch.randn(4, 5, 3, 3, requires_grad=True)
    for norm in (Own(5), nn.BatchNorm2d(5, track_running_stats=False)):
        with attack_mode(norm.eval()):
            assert "FrozenNorm" not in type(norm(features).grad_fn).__name__
    norm = norm_with_statistics(True)
    with attack_mode(norm, "train"):
        assert "FrozenNorm" not in type(norm(features).grad_fn).__name__
    with attack_mode(norm):
        norm.train()
        batch = norm(features)
        norm.eval()
    assert torch.allclose(batch.mean(dim=(0, 2, 3)), norm.bias, atol=1e-5)
