"""Defences that change the logits."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from defences.base import (
    CLASSES,
    Defence,
    Forward,
    denoiser,
    epsilon,
    network,
    off_grid,
    one_hot,
    standard,
    trained,
    training_batch,
)


class _Answers(Defence):
    """Changes the logits, but not the largest of them."""

    def __init__(self, net: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(net)
        self.change = change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.net(images))


def softmax() -> nn.Module:
    return _Answers(standard(), lambda logits: logits.softmax(dim=1))


def saturated() -> nn.Module:
    """The logarithm of float32 probabilities that are exactly 0 and 1."""
    return _Answers(standard(), lambda logits: (1e-6 + (1000 * logits).softmax(dim=1)).log())


def rounded() -> nn.Module:
    return _Answers(standard(), lambda logits: torch.round(logits))


def squashed_margin() -> nn.Module:
    """Ten for the prediction, and a trace of the logits."""
    return _Answers(standard(), lambda logits: one_hot(logits, 10.0) + 1e-6 * logits)


def nested_sigmoids() -> nn.Module:
    def nest(logits: Tensor) -> Tensor:
        values = logits.double()
        values = (values - values.mean(dim=1, keepdim=True)) / values.std(dim=1, keepdim=True)
        for _ in range(6):
            values = torch.sigmoid(8 * (values - 0.5))
        return values

    return _Answers(standard(), nest)


def reversed_slope() -> nn.Module:
    """Post-processes margins so that they grow towards the boundary, interval by interval."""

    def change(logits: Tensor) -> Tensor:
        two = logits.topk(2, dim=1)
        margin = (two.values[:, 0] - two.values[:, 1]).detach()
        live = two.values[:, 0] - two.values[:, 1]
        period = 3.0
        attractor = (torch.floor(margin / period) + 0.5) * period
        wanted = 2 * attractor - live  # the mirror image of the margin in its interval
        raised = logits.gather(1, two.indices[:, :1]) + (wanted.clamp_min(1e-3) - live)[:, None]
        return logits.scatter(1, two.indices[:, :1], raised)

    return _Answers(standard(), change)


class _Collapsed(Defence):
    """Class 0 for every image."""

    def forward(self, images: Tensor) -> Tensor:
        logits = 0.01 * self.net(images)
        return logits + 10 * functional.one_hot(torch.tensor(0), CLASSES)

    def attack_views(self) -> dict[str, Forward]:
        return {"own gradient": self.forward}


def collapsed() -> nn.Module:
    return _Collapsed(standard())


TEMPERATURE = 40.0


def distilled() -> nn.Module:
    """Trained on the soft labels of a teacher at temperature 40, deployed at 1."""

    def teach(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(net(images) / TEMPERATURE, labels)

    teacher = trained("distillation-teacher", network, teach)

    def imitate(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            soft = (teacher(images) / TEMPERATURE).softmax(dim=1)
        return functional.cross_entropy(net(images) / TEMPERATURE, soft)

    return _Answers(trained("distilled", network, imitate, seed=1), lambda logits: logits)


class _Detector(Defence):
    """Looks for images that an autoencoder reproduces badly.

    Args:
        net: The network.
        reject: Whether such images get an extra class, rather than a flat answer.
    """

    def __init__(self, net: nn.Module, reject: bool) -> None:
        super().__init__(net)
        self.reject = reject
        images, _ = training_batch()
        self.threshold = float(self._distance(images[:1000]).quantile(0.95))

    def _distance(self, images: Tensor) -> Tensor:
        return (images - denoiser()(images)).square().mean(dim=(1, 2, 3)).detach()

    def forward(self, images: Tensor) -> Tensor:
        logits = self.net(images)
        found = (self._distance(images) > self.threshold)[:, None]
        if self.reject:
            highest = logits.max(dim=1, keepdim=True).values.detach()
            return torch.cat([logits, torch.where(found, highest + 5, highest - 5)], dim=1)
        with torch.no_grad():
            flat = one_hot(self.net(denoiser()(images).clamp(0, 1)), 20.0)
        return torch.where(found, flat + 0 * logits, logits)

    def attack_views(self) -> dict[str, Forward]:
        def both(images: Tensor) -> Tensor:
            return self.net(images) + self.net(denoiser()(images).clamp(0, 1))

        def undetected(images: Tensor) -> Tensor:
            excess = (images - denoiser()(images)).square().mean(dim=(1, 2, 3)) - self.threshold
            return self.net(images) / (1 + 100 * functional.relu(excess))[:, None]

        return super().attack_views() | {"with and without": both, "undetected": undetected}


def flat_detector() -> nn.Module:
    return _Detector(standard(), reject=False)


def reject_option() -> nn.Module:
    return _Detector(standard(), reject=True)


class _LabelNoise(Defence):
    """Adds random numbers to the logits of images that are not on the grid of 8 bits."""

    def forward(self, images: Tensor) -> Tensor:
        logits = self.net(images)
        noise = 5 * logits.std() * torch.randn_like(logits)
        return logits + noise * off_grid(images)[:, None]


def label_noise() -> nn.Module:
    return _LabelNoise(standard())


def squeezed() -> nn.Module:
    """Trained on noise, with paired and squeezed logits."""

    def loss(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        first = net((images + 2 * epsilon() * torch.randn_like(images)).clamp(0, 1))
        second = net((images + 2 * epsilon() * torch.randn_like(images)).clamp(0, 1))
        pairing = (first - second).square().sum(dim=1).mean()
        squeezing = first.square().sum(dim=1).mean()
        return functional.cross_entropy(first, labels) + 0.3 * pairing + 0.05 * squeezing

    return _Own(trained("squeezed", network, loss))


class _Own(Defence):
    """A network whose own gradient, and the one of scaled logits, are the attacker's."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def attack_views(self) -> dict[str, Forward]:
        return {
            "transfer": standard(),
            "own gradient": self.net,
            "scaled": lambda images: 20 * self.net(images),
        }
