"""Adversarial images in 8 bits: inside the threat, on the grid, and found wherever they exist."""

import itertools

import pytest
import tiny
import torch
from torch import nn

from equipoise.attacks.threat import L2, Linf
from equipoise.evaluation.eight_bit import to_eight_bits


def lengths(pixels, clean, norm):
    """Distances in grey levels."""
    change = (pixels.double() - clean.double()).flatten(1)
    return change.abs().amax(dim=1) if norm is Linf else change.norm(dim=1)


def random_points(clean, threat, seed=0):
    generator = torch.Generator().manual_seed(seed)
    start = threat.random_start(clean.float() / 255, generator)
    return threat.project(start + 0.2 * torch.randn(start.shape, generator=generator), clean / 255)


@pytest.mark.parametrize("threat", [Linf(8 / 255), Linf(0.0301), L2(0.5), L2(0.03)])
@pytest.mark.parametrize("steps", [0, 4])
def test_every_image_is_inside_its_threat_whatever_was_tried(threat, steps):
    split = tiny.split(24)
    split.images[0], split.images[1] = 0, 255
    model = tiny.linear().eval()
    adversarial = random_points(split.images, threat)
    result = to_eight_bits(
        model, adversarial, split.images, split.labels, threat, torch.Generator(), steps
    )
    assert result.images.dtype == torch.uint8
    distance = lengths(result.images, split.images, type(threat))
    assert float(distance.max()) <= 255 * threat.epsilon * (1 + 1e-6) + 1e-6


def test_rounding_towards_the_clean_image_keeps_whole_levels():
    clean = torch.full((1, 1, 1, 3), 100, dtype=torch.uint8)
    change = torch.tensor([8.0, -3.0, 2.7]).reshape(1, 1, 1, 3)
    adversarial = (clean / 255 + change / 255).float()
    model = lambda images: torch.stack([images.sum((1, 2, 3)), torch.full((1,), 9.0)], 1)  # noqa: E731
    result = to_eight_bits(
        model, adversarial, clean, torch.tensor([0]), Linf(8 / 255), torch.Generator()
    )
    assert result.broken.item()
    assert result.by_rounding.item()
    assert result.images.flatten().tolist() == [108, 97, 102]


def small_linear(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()


def test_the_grid_search_finds_every_image_that_exists_on_a_small_grid():
    """Four pixels that may move by two levels: all 625 images of each ball can be tried."""
    model = small_linear()
    generator = torch.Generator().manual_seed(1)
    clean = torch.randint(40, 200, (4000, 1, 2, 2), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        logits = model(clean / 255)
        model[1].bias[0] -= (logits[:, 0] - logits[:, 1]).median()
        logits = model(clean / 255)
        nearest = (logits[:, 0] - logits[:, 1]).abs().argsort()[:1200:8]
    clean, labels = clean[nearest], logits[nearest].argmax(dim=1)
    threat = Linf(2.5 / 255)
    changes = torch.tensor(list(itertools.product(range(-2, 3), repeat=4))).reshape(-1, 1, 2, 2)
    exists = []
    for image, label in zip(clean, labels, strict=True):
        with torch.no_grad():
            exists.append(bool((model((image + changes) / 255).argmax(dim=1) != label).any()))
    exists = torch.tensor(exists)
    adversarial = threat.random_start(clean / 255, generator)
    result = to_eight_bits(model, adversarial, clean, labels, threat, generator)
    assert torch.equal(result.broken, exists)
    assert 0 < int(result.by_rounding.sum()) < int(exists.sum()) < len(clean)
    with torch.no_grad():
        predicted = model(result.images / 255).argmax(dim=1)
    assert torch.equal(predicted != labels, exists)


def test_below_one_grey_level_only_the_clean_image_is_on_the_grid():
    split, model = tiny.split(8), tiny.linear().eval()
    with torch.no_grad():
        labels = model(split.images / 255).argmax(dim=1)
    threat = Linf(0.9 / 255)
    result = to_eight_bits(
        model, random_points(split.images, threat), split.images, labels, threat, torch.Generator()
    )
    assert torch.equal(result.images, split.images)
    assert not bool(result.broken.any())


def test_a_network_without_gradients_is_tried_by_roundings_alone():
    class NoGradients(nn.Module):
        gives_gradients = False

        def __init__(self):
            super().__init__()
            self.inner = small_linear()

        @torch.no_grad()
        def forward(self, images):
            return self.inner(images)

    clean = torch.randint(0, 256, (16, 1, 2, 2), dtype=torch.uint8)
    model = NoGradients()
    labels = model(clean / 255).argmax(dim=1)
    threat = Linf(4 / 255)
    result = to_eight_bits(
        model, random_points(clean, threat), clean, labels, threat, torch.Generator()
    )
    assert float(lengths(result.images, clean, Linf).max()) <= 4
