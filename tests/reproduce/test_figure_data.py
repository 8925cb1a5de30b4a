"""Data of figures beyond records, for small models with known answers."""

import pytest
import tiny
import torch
from torch import nn

from equipoise.models import FeatureStack, fuse_branches, with_branches
from equipoise.reproduce.figure_data import BINS, KINDS


def compute(kind, *models, count=8, strongest=0.1):
    images, labels = tiny.images_and_labels(count)
    return KINDS[kind](models, images, labels, strongest, 0)


def test_the_gradient_of_a_linear_network_follows_from_its_weights():
    model, (images, labels) = tiny.linear(), tiny.images_and_labels()
    data = compute("gradients", model)
    shown = [int((labels == label).nonzero()[0]) for label in labels.unique()[:5]]
    assert torch.equal(torch.tensor(data["images"]), (255 * images[shown]).round().long())
    weight = model[1].weight.detach()
    for gradient, index in zip(data["gradients"][0], shown, strict=True):
        chances = model(images[index : index + 1]).softmax(1)[0].detach()
        chances[labels[index]] -= 1
        exact = (chances @ weight).abs().reshape(8, 8)
        assert torch.allclose(torch.tensor(gradient), exact / exact.max(), atol=1e-3)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_weights_with_two_values_have_the_lowest_kurtosis():
    model = tiny.linear()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -1.0]).repeat(10, 32))
    (histogram,) = compute("weights", model)["models"]
    assert histogram["kurtosis"] == pytest.approx(-2)
    assert sum(histogram["density"]) * 8 / BINS == pytest.approx(1, abs=1e-3)
    assert sum(value > 0 for value in histogram["density"]) == 2


def test_a_linear_layer_has_a_multiply_add_for_each_weight():
    assert compute("operations", tiny.linear()) == 640


def test_a_stack_costs_the_sum_of_its_members_and_merger():
    member = tiny.wide_resnet()
    stack = FeatureStack([member, member], 10).eval()
    cost = compute("operations", member)
    assert compute("operations", stack) == 2 * cost + 10 * 2 * 64


def test_features_that_determine_the_class_form_separate_clusters():
    images, labels = tiny.learnable(24).batch(slice(None))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    data = KINDS["embeddings"]([model, model], images, labels, 0.1, 0)
    assert [len(embedding["points"]) for embedding in data["embeddings"]] == [24, 24, 24]
    assert data["labels"] == labels.tolist()
    assert all(embedding["silhouette"] > 0.5 for embedding in data["embeddings"])
    again = KINDS["embeddings"]([model, model], images, labels, 0.1, 0)
    assert again == data


def test_channel_statistics_start_at_clean_images(monkeypatch):
    monkeypatch.setattr("equipoise.reproduce.figure_data.STRENGTHS", 2)
    torch.manual_seed(0)
    model = fuse_branches(with_branches(tiny.wide_resnet(), 2), placement="input").eval()
    images, labels = tiny.images_and_labels()
    data = KINDS["channels"]([model], images, labels, 0.1, 0)
    seen = []
    layer = model.network.get_submodule(data["layer"])
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(images, weight=0.0)
    clean = seen[0].transpose(0, 1).flatten(1)
    assert torch.allclose(torch.tensor(data["mean"][0]), clean.mean(1), atol=1e-3)
    assert torch.allclose(torch.tensor(data["variance"][0]), clean.var(1), rtol=1e-3)
    assert data["epsilons"] == [0, 0.1]
    assert data["mean"][1] != data["mean"][0]


def test_fusing_weights_are_measured_on_images_of_a_surrogate_at_random_strengths(monkeypatch):
    """AFA Fig. 6: the attack never sees the model whose weights are measured."""
    model = fuse_branches(with_branches(tiny.wide_resnet(), 2), placement="input").eval()
    surrogate, (images, labels) = tiny.linear().eval(), tiny.images_and_labels(16)
    seen = []
    forward = type(model).logits_and_weight

    def watched(self, batch, **settings):
        seen.append(batch)
        return forward(self, batch, **settings)

    monkeypatch.setattr(type(model), "logits_and_weight", watched)
    data = KINDS["transferred_weights"]([model, model, surrogate], images, labels, 0.1, 0)
    assert len(seen) == 2  # once a model, without an attack
    strengths = torch.tensor(data["epsilons"])
    assert 0 <= float(strengths.min()) < 0.05 < float(strengths.max()) <= 0.1
    moved = (seen[0] - images).abs().amax(dim=(1, 2, 3))
    assert torch.allclose(moved, strengths, atol=1e-4)
    loss = torch.nn.functional.cross_entropy
    assert loss(surrogate(seen[0]), labels) > loss(surrogate(images), labels)
    with torch.no_grad():
        expected = 1 - model.logits_and_weight(seen[0])[1]
    assert data["w1"][0] == data["w1"][1]
    assert torch.allclose(torch.tensor(data["w1"][0]), expected, atol=1e-3)
