"""R_free against networks whose worst case over image and W0 is known in closed form."""

import pytest
import tiny
import torch
from scripted import adaptive, labelled_by
from torch import nn

from equipoise.attacks.threat import L2, Linf
from equipoise.data import Split
from equipoise.evaluation import Profile
from equipoise.evaluation.free_gate import _Gates, free_gate
from equipoise.evaluation.verification import Rescoring
from equipoise.models import (
    AdaptiveNetwork,
    AtLayer,
    FusedBatchNorm2d,
    fuse_branches,
    with_branches,
)
from equipoise.report import r_free_sentence
from equipoise.runtime.errors import InvalidInput

CEILING = 0.4
EPSILONS = (0.0, 0.05, 0.1)


def two_branches(
    placement: str | AtLayer = "input", each: str = "image", sites: int = 1
) -> AdaptiveNetwork:
    """A linear network with one feature a pixel; only the norms' two branches differ."""
    torch.manual_seed(3)
    layers: list[nn.Module] = []
    for _ in range(sites):
        layers += [nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1)]
    branched = with_branches(nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 2)), branches=2)
    generator = torch.Generator().manual_seed(4)
    for module in branched.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.0, 1.5, generator=generator)
            nn.init.normal_(module.bias, generator=generator)
    model = fuse_branches(
        branched, placement=placement, each=each, ceiling=CEILING, hidden=4
    ).eval()
    return model


def images_near_the_boundary(model: nn.Module, count: int = 48) -> Split:
    """Noise, labelled by the model, moved so that the two classes are about as frequent."""
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        values = model(pixels.float() / 255)
        model.network[-1].bias += torch.tensor([1.0, 0.0]) * (values[:, 1] - values[:, 0]).median()
        labels = model(pixels.float() / 255).argmax(dim=1)
    return Split(images=pixels, labels=labels, classes=2)


def profile_of(model: nn.Module, split: Split, epsilons=EPSILONS) -> Profile:
    """A profile without attacks: every image that is right when clean survives."""
    images, labels = split.batch(slice(None))
    with torch.no_grad():
        clean = model(images).argmax(dim=1) == labels
    rescored = Rescoring(images=0, batch_size=86, boundary=0)
    return Profile(epsilons=epsilons, suites=(), outcomes=(), clean=clean, rescored=rescored)


def worst_margin(model: AdaptiveNetwork, split: Split, epsilon: float) -> torch.Tensor:
    """The largest margin over the ball and W0: linear in the image, convex in W0."""
    images, labels = split.batch(slice(None))
    margins = []
    for weight in (0.0, CEILING):
        points = images.clone().requires_grad_(True)
        logits = model(points, weight=weight)
        difference = logits[:, 1] - logits[:, 0]
        difference = torch.where(labels == 0, difference, -difference)
        (gradient,) = torch.autograd.grad(difference.sum(), points)
        corner = (images + epsilon * gradient.sign()).clamp(0, 1)
        moved = ((corner - images) * gradient).flatten(1).sum(1)
        margins.append(difference.detach() + moved)
    return torch.stack(margins).amax(dim=0)


@pytest.mark.slow
def test_r_free_of_a_linear_network_is_the_exact_worst_case():
    model = two_branches()
    split = images_near_the_boundary(model)
    profile = profile_of(model, split)
    result = free_gate(model, split, profile, threat=Linf, seed=0)
    expected = []
    for epsilon in EPSILONS:
        worst = worst_margin(model, split, epsilon)
        assert float(worst.abs().min()) > 1e-4, "no image may be on the boundary itself"
        expected.append(float((worst < 0).double().mean()))
    assert result["accuracy"] == expected
    assert 1.0 > expected[0] > expected[1] > expected[2] > 0.0
    assert result["range"] == [0.0, CEILING]
    assert result["gates"] == 1


@pytest.mark.slow
def test_images_that_the_evaluation_broke_stay_broken_and_are_not_attacked():
    model = two_branches()
    split = images_near_the_boundary(model)
    profile = profile_of(model, split)
    profile.clean[:40] = False
    result = free_gate(model, split, profile, threat=Linf, seed=0)
    assert max(result["images_attacked"]) <= 8
    assert all(
        free <= score for free, score in zip(result["accuracy"], profile.accuracy(), strict=True)
    )
    assert result["accuracy"] == sorted(result["accuracy"], reverse=True)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_result_and_leaves_the_network_alone():
    model = two_branches()
    split = images_near_the_boundary(model, count=8)
    before = tiny.weights(model)
    profile = profile_of(model, split)
    results = [
        free_gate(model, split, profile, threat=L2, seed=1, steps=3, batch_size=5) for _ in range(2)
    ]
    assert results[0] == results[1]
    assert tiny.same(before, tiny.weights(model))
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("placement", "each", "count"),
    [
        ("input", "image", 1),
        ("stem", "image", 1),
        ("per_norm", "image", 3),
        (AtLayer(layer="3"), "image", 1),
        (AtLayer(layer="3", before="clean"), "image", 1),
        ("input", "channel", 6),
    ],
)
def test_equal_weights_for_all_gates_are_one_fixed_weight(placement, each, count):
    model = two_branches(placement, each, sites=3)
    gates = _Gates.of(model)
    assert gates.count == count
    images = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for weight in (0.0, 0.15):
        given = gates.logits(images, torch.full((5, count), weight))
        torch.testing.assert_close(given, model(images, weight=weight))
    assert model.state.weight is None


def test_norms_before_the_layer_are_not_the_attackers():
    model = two_branches(AtLayer(layer="3"), sites=3)
    images = torch.rand(2, 1, 4, 4)
    seen = []
    for norm in (m for m in model.modules() if isinstance(m, FusedBatchNorm2d)):
        norm.register_forward_hook(lambda norm, given, out: seen.append(given[1].flatten()))
    _Gates.of(model).logits(images, torch.full((2, 1), 0.3))
    assert [weight.tolist() for weight in seen] == [pytest.approx([0.3, 0.3])] * 2  # of three


def test_each_of_several_gates_is_chosen_by_itself():
    model = two_branches("per_norm", sites=3)
    images = torch.rand(2, 1, 4, 4)
    gates = _Gates.of(model)
    one = gates.logits(images, torch.tensor([[0.4, 0.0, 0.0]] * 2))
    other = gates.logits(images, torch.tensor([[0.0, 0.0, 0.4]] * 2))
    assert not torch.allclose(one, other)


def test_gates_chosen_pair_by_pair_break_at_least_what_one_weight_breaks():
    model = two_branches("per_norm", sites=2)
    split = images_near_the_boundary(model)
    profile = profile_of(model, split)
    free = free_gate(model, split, profile, threat=Linf, seed=0)
    assert free["gates"] == 2
    one_weight = [
        float((worst_margin(model, split, epsilon) < 0).double().mean()) for epsilon in EPSILONS
    ]
    assert all(a <= b for a, b in zip(free["accuracy"], one_weight, strict=True))


def test_a_convolutional_network_keeps_at_most_its_score():
    model = adaptive()
    split = labelled_by(model)
    profile = profile_of(model, split, (0.0, 0.02))
    result = free_gate(model, split, profile, threat=Linf, seed=0, steps=2)
    assert result["accuracy"][0] <= profile.accuracy()[0]


def test_only_a_network_with_a_gate_has_an_r_free(no_shape_checks):
    model, split = tiny.linear().eval(), tiny.split(4)
    with pytest.raises(InvalidInput, match="free_gate needs an adaptive network, got Sequential"):
        free_gate(model, split, profile_of(model, split), threat=Linf, seed=0)


def test_the_sentence_names_the_number_of_gates_if_there_are_several():
    record = {
        "model": "afa",
        "epsilons_written": ["0", "0.2"],
        "headline": {"accuracy": [0.9, 0.5]},
        "r_free": {"accuracy": [0.9, 0.4], "range": [0.0, 1.0], "gates": 12},
    }
    assert "sets W0 of each of 12 gates in [0, 1]" in r_free_sentence(record)
