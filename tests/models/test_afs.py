import pytest
import torch
from torch import nn

from equipoise.attacks import fgsm
from equipoise.attacks.goals import cross_entropy
from equipoise.attacks.threat import Linf
from equipoise.models import FeatureExtractor, FeatureStack, WideResNet, fuse_branches


@pytest.fixture
def networks(external_cnn):
    torch.manual_seed(1)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Tanh(), nn.Linear(5, 3))
    return [WideResNet(depth=10, width=1, classes=3), external_cnn, mlp]


@pytest.fixture
def stack(networks):
    return FeatureStack(networks, classes=3)


def test_features_are_the_input_of_the_last_linear_layer(networks, images):
    for network in networks:
        extractor = FeatureExtractor(network)
        features = extractor(images)
        assert features.shape == (6, extractor.size)
        torch.testing.assert_close(extractor.head()(features), network(images))


def test_features_of_an_adaptive_network_are_found(branched, images):
    model = fuse_branches(branched, placement="input", hidden=4).eval()
    extractor = FeatureExtractor(model)
    torch.testing.assert_close(model.network.head(extractor(images)), model(images))


class HeadFirst(nn.Module):
    """Registers its head first, though it runs last."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 3)
        self.body = nn.Linear(192, 5)

    def forward(self, images):
        return self.head(self.body(images.flatten(1)).relu())


def test_a_linear_layer_that_does_not_make_the_logits_is_not_taken_for_the_head(images):
    network = HeadFirst()
    try:
        features = FeatureExtractor(network)(images)
    except ValueError as refusal:
        assert "HeadFirst" in str(refusal)  # noqa: PT017
    else:
        assert features.shape == (6, 5)
        torch.testing.assert_close(network.head(features), network(images))


def test_logits_are_the_concatenated_features_times_the_merger(stack, networks, images):
    features = torch.cat([FeatureExtractor(network)(images) for network in networks], dim=1)
    assert stack.sizes() == [64, 4, 5]
    torch.testing.assert_close(stack.features(images), features)
    expected = features @ stack.merger.weight.T + stack.merger.bias
    torch.testing.assert_close(stack(images), expected)


def test_an_averaging_merger_gives_the_mean_of_the_members_logits(stack, networks, images):
    networks[2][3].bias = None  # a missing bias counts as 0
    stack = FeatureStack(networks, classes=3)
    stack.average()
    expected = sum(network.eval()(images) for network in networks) / 3
    torch.testing.assert_close(stack(images), expected, rtol=1e-4, atol=1e-5)


def test_averaging_different_numbers_of_classes_is_refused(networks):
    with pytest.raises(ValueError, match="member 0 has 3 classes, not 4"):
        FeatureStack(networks, classes=4).average()


@pytest.mark.parametrize("member", [0, 1, 2])
def test_gradients_flow_through_every_member(member, stack, images, labels):
    # A merger that reads only one member leaves a single path for the gradient.
    keep = [torch.full((size,), float(i == member)) for i, size in enumerate(stack.sizes())]
    with torch.no_grad():
        stack.merger.weight *= torch.cat(keep)
    images.requires_grad_(True)
    loss = cross_entropy(stack, labels)(images).sum()
    (gradient,) = torch.autograd.grad(loss, images)
    assert (gradient.flatten(1).abs().amax(dim=1) > 0).all()


def test_the_attack_uses_the_gradient_of_the_whole_stack(stack, networks, images, labels):
    goal = cross_entropy(stack, labels)
    attacked = fgsm()(goal, images, Linf(0.05), torch.Generator())

    leaf = images.clone().requires_grad_(True)
    logits = stack.merger(torch.cat([FeatureExtractor(n)(leaf) for n in networks], dim=1))
    loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(attacked, (images + 0.05 * gradient.sign()).clamp(0, 1))
    assert (goal(attacked) > goal(images)).all()


def test_only_the_merger_trains_and_members_stay_in_eval_mode(stack, images, labels):
    stack.train()
    before = {name: value.clone() for name, value in stack.members.state_dict().items()}
    cross_entropy(stack, labels)(images).sum().backward()
    assert stack.merger.weight.grad.abs().max() > 0
    assert not any(p.requires_grad or p.grad is not None for p in stack.members.parameters())
    assert not any(module.training for member in stack.members for module in member.modules())
    torch.testing.assert_close(stack.members.state_dict(), before, rtol=0, atol=0)


def test_importance_is_each_members_share_of_the_merger(stack):
    with torch.no_grad():
        parts = [
            torch.full((3, size), value) for size, value in zip([64, 4, 5], [1, -4, 2], strict=True)
        ]
        stack.merger.weight.copy_(torch.cat(parts, dim=1))
    total = 64 + 16 + 10
    assert stack.importance().tolist() == pytest.approx([64 / total, 16 / total, 10 / total])


def test_no_hook_outlives_a_call_that_fails(stack, images):
    with pytest.raises(ValueError, match="images must have 3 channels"):
        stack(images[:, :1])
    assert not any(module._forward_pre_hooks for module in stack.modules())


def test_an_empty_stack_is_refused():
    with pytest.raises(ValueError, match="a stack needs at least one network, got none"):
        FeatureStack([], classes=3)


def test_a_network_without_a_linear_layer_is_refused():
    with pytest.raises(ValueError, match="Sequential has no linear layer"):
        FeatureStack([nn.Sequential(nn.Conv2d(3, 3, 8), nn.Flatten())], classes=3)


POOL, CONV, FLAT = nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 3, 1), nn.Flatten()


@pytest.mark.parametrize("head", [(POOL, CONV, FLAT), (CONV, POOL, FLAT)])
def test_a_1x1_convolution_and_pooling_is_a_last_linear_layer(head, images):
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), *head).eval()
    stack = FeatureStack([network, network], classes=3)
    features = network[:2](images).mean(dim=(2, 3))
    torch.testing.assert_close(stack.features(images), torch.cat([features, features], dim=1))
    stack.average()
    torch.testing.assert_close(stack(images), network(images))


def test_a_1x1_convolution_whose_output_is_changed_is_refused(images):
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), POOL, FLAT)
    with pytest.raises(ValueError, match=r"does not end in its last linear layer.*one of 0,.*wrap"):
        FeatureExtractor(network)(images)


def test_a_last_linear_layer_on_a_map_is_refused(images):
    network = nn.Sequential(nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"must run once on a batch of feature vectors, got"):
        FeatureExtractor(network)(images)


def test_a_last_linear_layer_that_runs_twice_is_refused(images):
    linear = nn.Linear(192, 192)
    network = nn.Sequential(nn.Flatten(), linear, linear)
    with pytest.raises(ValueError, match=r"must run once on a batch of feature vectors, got"):
        FeatureExtractor(network)(images)
