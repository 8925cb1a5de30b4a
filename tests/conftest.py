"""Fixtures of several test files. Equipoise is imported inside them: the shape checks of pytest's
jaxtyping hook reach only what is imported after this file is."""

import os
from collections.abc import Iterator

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread a worker, or workers wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"

import jaxtyping
import pytest
import torch
from torch import Tensor, nn


class SomebodysCNN(nn.Module):
    """A stranger's network: a shortcut, one norm used twice, and not a word about Equipoise."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.shared_norm = nn.BatchNorm2d(4)
        self.block = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)
        )
        self.head = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.shared_norm(self.stem(images)).relu()
        features = features + self.block(features)
        return self.head(self.shared_norm(features).relu().mean(dim=(2, 3)))


@pytest.fixture
def no_shape_checks() -> Iterator[None]:
    """What a user sees: our own refusal of a wrong shape, not that of the tests' shape checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set digits has a few images."""
    import tiny

    from equipoise.data import Digits

    data = tiny.digits()
    monkeypatch.setattr(Digits, "load", lambda self: data)


@pytest.fixture
def no_self_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations find nothing to say about their scores."""
    monkeypatch.setattr("equipoise.api.evaluate.self_checks", lambda *given, **settings: [])


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    return torch.rand(6, 3, 8, 8, generator=generator)


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture
def external_cnn() -> nn.Module:
    torch.manual_seed(0)
    return SomebodysCNN()


@pytest.fixture
def branched(external_cnn: nn.Module, generator: torch.Generator) -> nn.Module:
    """Three branches that differ in statistics and affine parameters."""
    from tiny import drawn_norms

    from equipoise.models import with_branches

    model = with_branches(external_cnn, branches=3)
    return drawn_norms(model, generator, statistics=True).eval()
