from functools import partial

import numpy as np
import pytest
import torch
from by_hand import agree, batch, cross_entropy
from torch import nn

from equipoise.models.last_linear import features_and_logits
from equipoise.objectives import TLA

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])  # two of each, so that there is only one second positive
PARTNER = np.array([1, 0, 3, 2, 5, 4])


class Subtract(nn.Module):
    """Subtracts a number."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, features):
        return features - self.number


def linear(middle: float = 0.0) -> nn.Module:
    """A network whose penultimate features are the pixels minus a number."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), Subtract(middle), nn.Linear(9, 3))


@pytest.fixture
def pixels(generator):
    clean = torch.rand(6, 1, 3, 3, generator=generator)
    noise = 0.2 * torch.rand(6, 1, 3, 3, generator=generator)
    return clean, (clean + noise).clamp(0, 1)


def cosine(left, right):
    return (left * right).sum(-1) / np.linalg.norm(left, axis=-1) / np.linalg.norm(right, axis=-1)


def hardest(anchor, pool, labels):
    similarity = cosine(anchor[:, None], pool[None])
    similarity[labels[:, None] == labels[None]] = -np.inf
    return similarity.argmax(axis=1)


def losses_of(objective, network, clean, adversarial, labels=LABELS):
    return objective.losses(batch(clean, adversarial, labels, network))


@pytest.mark.parametrize("middle", [0.0, 0.6])
@pytest.mark.parametrize("margin", [0.03, 0.5])
def test_loss_and_gradients_match_the_formula(pixels, margin, middle):
    """With pixels on both sides of zero, some features have a negative cosine."""
    network, settings = linear(middle).double(), TLA(margin=margin, noise=0.0)
    tensors = [images.double().requires_grad_() for images in pixels]
    clean, adversarial = (tensor.detach().numpy().astype(float) for tensor in tensors)
    weight, bias = (p.detach().numpy().astype(float) for p in network.parameters())
    loss = losses_of(settings, network, *tensors)["loss"]
    a, x = (images.reshape(6, 9) - middle for images in (adversarial, clean))
    negative = hardest(a, x, LABELS.numpy())
    assert (cosine(a, x[PARTNER]).min() < 0) == (middle > 0)

    def triplet(a, p, n):
        hinge = np.maximum(0.0, (1 - abs(cosine(a, p))) - (1 - abs(cosine(a, n))) + margin)
        return hinge + 1e-3 * (a**2 + p**2 + n**2).mean(axis=1)

    def by_hand():
        a, x = (images.reshape(6, 9) - middle for images in (adversarial, clean))
        both = triplet(a, x, x[negative]) + triplet(a, x[PARTNER], x[negative])
        return cross_entropy(a @ weight.T + bias, LABELS.numpy()) + 2 * both

    agree(loss, tensors, by_hand, [clean, adversarial])


def test_the_negative_is_the_hardest_of_all_other_classes():
    """Its image has a gradient; all other clean images of other classes have none."""
    clean = torch.full((6, 1, 3, 3), 0.1)
    for row in range(6):
        clean[row, 0, row // 3, row % 3] = 1.0
    clean[4, 0, 0, 0] = 0.5  # of all images of classes 1 and 2, the most similar to image 0
    adversarial = clean.clone()
    adversarial[:, 0, 2, 2] = 0.3
    given = clean.clone().requires_grad_()
    terms = losses_of(TLA(margin=1.0, norm_weight=0.0, noise=0.0), linear(), given, adversarial)
    (gradient,) = torch.autograd.grad(terms["loss_triplets"][0], given)
    moved = gradient.abs().amax(dim=(1, 2, 3)) > 0
    assert moved.tolist() == [True, True, False, False, True, False]


def test_noise_on_the_first_positive_stays_within_its_bound_and_the_pixel_box():
    seen = []
    network = linear()
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    clean = torch.linspace(0, 1, 54).reshape(6, 1, 3, 3)
    losses_of(TLA(noise=0.1), network, clean, clean)
    noisy = seen[1]
    assert 0.05 < float((noisy - clean).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(noisy.min()) <= float(noisy.max()) <= 1


def test_the_second_positive_is_another_image_of_the_class_drawn_uniformly():
    from equipoise.objectives.tla import _random_positive

    same = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([_random_positive(same, generator) for _ in range(400)])
    assert set(drawn[:, 0].tolist()) == {1, 2}
    assert (drawn[:, 0] == 1).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert set(drawn[:, 3].tolist()) == {3}  # alone in its class


def test_without_a_negative_there_are_no_triplet_terms(pixels):
    labels = torch.zeros(6, dtype=torch.long)
    terms = losses_of(TLA(), linear(), *pixels, labels)
    assert not terms["loss_triplets"].any()
    assert torch.equal(terms["loss"], terms["loss_adversarial"])


def test_features_of_zero_have_a_finite_gradient():
    black = torch.zeros(6, 1, 3, 3, requires_grad=True)
    losses_of(TLA(noise=0.0), linear(), black, black)["loss"].sum().backward()
    assert black.grad.isfinite().all()


def test_features_are_the_input_of_the_last_linear_layer(pixels):
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 3))
    for predict in (network, partial(network), partial(partial(network))):
        features, logits = features_and_logits(predict, pixels[0])
        assert torch.equal(features, network[:3](pixels[0]))
        assert torch.equal(logits, network(pixels[0]))
    assert not network[3]._forward_pre_hooks  # nothing is left behind


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (lambda images: images.flatten(1), "need an nn.Module, or a functools.partial"),
        (nn.Flatten(), "Flatten has no linear layer, so its penultimate features are unknown"),
        (nn.Linear(3, 3), r"must run once on a batch of feature vectors, got \[\(6, 1, 3, 3\)\]"),
    ],
)
def test_a_predict_without_known_features_is_refused(predict, message, pixels, no_shape_checks):
    with pytest.raises(ValueError, match=message):
        features_and_logits(predict, pixels[0])
