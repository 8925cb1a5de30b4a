import numpy as np
import torch
from by_hand import agree, batch, cross_entropy
from torch import nn

from equipoise.objectives import IAT

BATCH, CLASSES = 8, 5


class Recorded(nn.Module):
    """A linear network that records its inputs."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(2 * BATCH, CLASSES, generator=generator).double())
        self.seen: list[torch.Tensor] = []

    def forward(self, images):
        self.seen.append(images)
        return images.flatten(1) @ self.weight


def basis(first: int) -> torch.Tensor:
    """Images that each light a different pixel, so that a mixture shows its parts."""
    images = torch.zeros(BATCH, 1, 1, 2 * BATCH, dtype=torch.float64)
    for row in range(BATCH):
        images[row, 0, 0, first + row] = 1.0
    return images


CLEAN, ADVERSARIAL = basis(0), basis(BATCH)
LABELS = torch.arange(BATCH) % CLASSES


def mixtures(seed: int):
    natural, attacked = Recorded(1), Recorded(2)
    terms = IAT().losses(batch(CLEAN, ADVERSARIAL, LABELS, natural, attacked, seed=seed))
    return terms, natural, attacked


def parts(images: torch.Tensor, first: int) -> tuple[float, np.ndarray]:
    """The mixing weight of a batch and each image's partner."""
    pixels = images.flatten(1).numpy().astype(float)
    mixture = pixels[:, first : first + BATCH]
    assert pixels.sum() == mixture.sum()
    weight = next(mixture[row, row] for row in range(BATCH) if mixture[row, row] < 0.999)
    partner = (mixture - weight * np.eye(BATCH)).argmax(axis=1)
    np.testing.assert_allclose(
        mixture, weight * np.eye(BATCH) + (1 - weight) * np.eye(BATCH)[partner], atol=1e-6
    )
    return weight, partner


def test_loss_and_gradients_are_the_mean_of_both_mixup_losses():
    terms, natural, attacked = mixtures(seed=3)
    arrays, halves = [], []
    for network, first in ((natural, 0), (attacked, BATCH)):
        weight, partner = parts(network.seen[0], first)
        pixels = network.seen[0].flatten(1).numpy().astype(float)
        arrays.append(network.weight.detach().numpy().astype(float))
        halves.append((weight, partner, pixels))

    def by_hand():
        total = 0.0
        for (weight, partner, pixels), array in zip(halves, arrays, strict=True):
            logits, labels = pixels @ array, LABELS.numpy()
            first = cross_entropy(logits, labels)
            second = cross_entropy(logits, labels[partner])
            total = total + (weight * first + (1 - weight) * second) / 2
        return total

    agree(terms["loss"], [natural.weight, attacked.weight], by_hand, arrays)
    torch.testing.assert_close(terms["loss"], (terms["loss_clean"] + terms["loss_adversarial"]) / 2)


def test_the_two_mixtures_are_independent():
    pairs = []
    for seed in range(200):
        _, natural, attacked = mixtures(seed)
        pairs.append((parts(natural.seen[0], 0), parts(attacked.seen[0], BATCH)))
    weights = np.array([(clean[0], adversarial[0]) for clean, adversarial in pairs])
    same_partner = np.mean([(clean[1] == adversarial[1]).mean() for clean, adversarial in pairs])
    assert abs(np.corrcoef(weights.T)[0, 1]) < 0.2
    assert abs(same_partner - 1 / BATCH) < 0.05
    np.testing.assert_allclose(weights.mean(axis=0), 0.5, atol=0.07)  # Beta(1, 1): uniform
    np.testing.assert_allclose(weights.std(axis=0), 12**-0.5, atol=0.04)


def test_partners_are_a_permutation():
    _, natural, attacked = mixtures(seed=5)
    for network, first in ((natural, 0), (attacked, BATCH)):
        assert sorted(parts(network.seen[0], first)[1]) == list(range(BATCH))
