"""Reference losses in float64 NumPy, with which the tests compare the library's."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from equipoise.objectives import Batch
from equipoise.types import Predict

LABELS = np.array([2, 0, 1, 3])
CLEAN = np.array(
    [[1.0, -0.5, 2.0, 0.3], [3.0, 1.0, -1.0, 0.0], [0.2, 0.1, 0.4, 0.3], [-2.0, 0.5, 4.0, 1.5]]
)
ADVERSARIAL = np.array(
    [[1.5, -1.0, 0.8, 0.7], [0.5, 1.2, -0.3, 1.9], [0.6, -0.2, 0.5, 0.0], [-1.0, 2.5, 3.0, 1.0]]
)
"""Logits of four images, two of them misclassified under attack."""


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -log_softmax(logits)[np.arange(len(labels)), labels]


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) of two sets of logits."""
    return (np.exp(log_softmax(p)) * (log_softmax(p) - log_softmax(q))).sum(axis=1)


def slope(function: Callable[[], np.ndarray], array: np.ndarray) -> np.ndarray:
    """Central differences of the mean of a function with respect to an array that it reads."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + 1e-5
        above = function().mean()
        array[index] = value - 1e-5
        gradient[index] = (above - function().mean()) / 2e-5
        array[index] = value
    return gradient


class Answers(nn.Module):
    """A network that returns the same logits for any input."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


def agree(
    loss: Tensor,
    leaves: Sequence[Tensor],
    function: Callable[[], np.ndarray],
    arrays: Sequence[np.ndarray],
) -> None:
    """Assert that a per-image loss and its gradients match those of a NumPy function.

    Both are computed in float64: the tolerance of the loss is its rounding, that of the gradient
    the error of central differences.
    """
    assert loss.dtype == torch.float64
    np.testing.assert_allclose(loss.detach().numpy(), function(), rtol=1e-12, atol=1e-13)
    gradients = torch.autograd.grad(loss.mean(), leaves)
    for gradient, array in zip(gradients, arrays, strict=True):
        np.testing.assert_allclose(gradient.numpy(), slope(function, array), rtol=1e-7, atol=1e-9)


def batch(
    clean: Tensor,
    adversarial: Tensor,
    labels: Tensor,
    predict_clean: Predict,
    predict_adversarial: Predict | None = None,
    *,
    seed: int = 0,
) -> Batch:
    """A batch with one network or two, and a fresh generator."""
    return Batch(
        clean=clean,
        adversarial=adversarial,
        labels=labels,
        predict_clean=predict_clean,
        predict_adversarial=predict_adversarial or predict_clean,
        generator=torch.Generator().manual_seed(seed),
    )


def losses_of_answers(
    objective, clean: np.ndarray, adversarial: np.ndarray, labels: np.ndarray = LABELS
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The terms of an objective at given logits, and the tensors of those logits."""
    natural, attacked = Answers(clean), Answers(adversarial)
    images = torch.zeros(len(labels), 1, 2, 2)
    terms = objective.losses(batch(images, images + 0.1, torch.tensor(labels), natural, attacked))
    return terms, [natural.logits, attacked.logits]
