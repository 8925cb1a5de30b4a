"""Data, networks trained as usual, and what the defences are made of.

The data set is digits, or CIFAR-10 if the environment variable DEFENCE_ZOO_CIFAR10 names its
folder. Trained weights are kept in the folder DEFENCE_ZOO_WORK, by default runs/defence_zoo.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from equipoise.data import Cifar10, DataSet, Digits
from equipoise.runtime.files import write_bytes

CLASSES = 10
TRAINING_IMAGES = 20_000  # of CIFAR-10
Forward = Callable[[Tensor], Tensor]


def cifar10() -> str | None:
    """Folder of CIFAR-10, if the zoo is to be built on it."""
    return os.environ.get("DEFENCE_ZOO_CIFAR10")


def work_folder() -> Path:
    usual = Path(__file__).resolve().parents[2] / "runs" / "defence_zoo"
    return Path(os.environ.get("DEFENCE_ZOO_WORK", usual)) / ("cifar10" if cifar10() else "digits")


@functools.cache
def data() -> DataSet:
    folder = cifar10()
    if folder is None:
        return Digits().load()
    return Cifar10(folder=Path(folder), limit=TRAINING_IMAGES).load()


@functools.cache
def training_batch() -> tuple[Tensor, Tensor]:
    """All training images and labels."""
    return data().train.batch(slice(None))


def epsilon() -> float:
    """The strength at which truth and score are compared."""
    return 8 / 255 if cifar10() else 0.15


def shape() -> tuple[int, int, int]:
    """Channels, height and width of the images."""
    return tuple(data().image_shape)  # type: ignore[return-value]


def network(activation: Callable[[], nn.Module] = nn.ReLU, copies: int = 1) -> nn.Sequential:
    """The usual network: a multilayer perceptron for digits, a small CNN for CIFAR-10.

    Args:
        activation: Builds an activation.
        copies: Channels of the input, as a multiple of the image's.
    """
    channels, height, width = shape()
    if cifar10():
        return cnn(activation, copies=copies)
    inputs = copies * channels * height * width
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 128), activation(), nn.Linear(128, CLASSES)
    )


def cnn(
    activation: Callable[[], nn.Module] = nn.ReLU,
    norm: Callable[[int], nn.Module] = lambda channels: nn.Identity(),
    copies: int = 1,
) -> nn.Sequential:
    """Three convolutions, all but the first with stride 2, and one linear layer."""
    channels, height, width = shape()
    widths = (copies * channels, 16, 32, 64) if cifar10() else (copies * channels, 8, 16, 32)
    layers: list[nn.Module] = []
    for stage in range(3):
        stride = 1 if stage == 0 else 2
        layers.append(nn.Conv2d(widths[stage], widths[stage + 1], 3, stride, padding=1))
        layers += [norm(widths[stage + 1]), activation()]
    features = widths[-1] * (height // 4) * (width // 4)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, CLASSES))


Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def cross_entropy(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(net(images), labels)


def attacked(net: nn.Module, images: Tensor, labels: Tensor, loss: Loss = cross_entropy) -> Tensor:
    """Five sign steps at the zoo's strength."""
    points = images + 1e-3 * torch.randn_like(images)
    for _ in range(5):
        points = points.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(net, points, labels), points)
        points = points.detach() + 0.4 * epsilon() * gradient.sign()
        points = points.clamp(images - epsilon(), images + epsilon()).clamp(0, 1)
    return points.detach()


def pgd_at(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(net, attacked(net, images, labels), labels)


def trained(
    name: str, build: Callable[[], nn.Module], loss: Loss = cross_entropy, seed: int = 0
) -> nn.Module:
    """Train a network with Adam, or read the weights of an earlier training of that name.

    Args:
        name: Name of the weights file.
        build: Builds the network.
        loss: What training minimises.
        seed: Random seed of weights and batches.
    """
    path = work_folder() / "weights" / f"{name}.safetensors"
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        net = build()
        if path.exists():
            net.load_state_dict(safetensors.torch.load_file(path))
            return net.eval()
        images, labels = training_batch()
        steps = 1200 if cifar10() else 300
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-3 if cifar10() else 3e-3)
        for _ in range(steps):
            rows = torch.randint(0, len(labels), (128,))
            value = loss(net, images[rows], labels[rows])
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
    write_bytes(path, safetensors.torch.save(net.state_dict()))
    return net.eval()


@functools.cache
def standard(seed: int = 0) -> nn.Module:
    """The usual network, trained on clean images."""
    return trained(f"standard-{seed}", network, seed=seed)


@functools.cache
def robust(seed: int = 0) -> nn.Module:
    """The usual network, trained with PGD-AT."""
    return trained(f"robust-{seed}", network, pgd_at, seed=seed)


class Defence(nn.Module):
    """A network with something around it.

    ``attack_views`` are what an attacker who knows the defence attacks in its place: functions of
    images to logits with an honest gradient.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.eval()

    def attack_views(self) -> dict[str, Forward]:
        return {"transfer": self.net}


class Transformed(Defence):
    """Transforms images before the network sees them.

    Args:
        net: The network.
        transform: Images to images.
        draws: How many draws of the transform the attacker averages; 1 if it is not random.
        differentiable: Whether its gradient is honest; if not, the attacker takes the identity's.
    """

    def __init__(
        self, net: nn.Module, transform: Forward, draws: int = 1, differentiable: bool = False
    ) -> None:
        super().__init__(net)
        self.transform, self.draws, self.differentiable = transform, draws, differentiable

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.transform(images))

    def attack_views(self) -> dict[str, Forward]:
        view = self.forward if self.differentiable else self._through_identity
        name = "own gradient" if self.differentiable else "BPDA"
        if self.draws > 1:
            name, view = f"{name}, EOT", eot(view, self.draws)
        return {**super().attack_views(), name: view}

    def _through_identity(self, images: Tensor) -> Tensor:
        return self.net(straight_through(images, self.transform(images.detach())))


def straight_through(images: Tensor, transformed: Tensor) -> Tensor:
    """The transformed images, with the gradient of the images (BPDA, Athalye et al. 2018)."""
    return images + (transformed - images).detach()


def eot(view: Forward, draws: int) -> Forward:
    """Mean of a random function over draws (Athalye et al. 2018)."""

    def mean(images: Tensor) -> Tensor:
        return torch.stack([view(images) for _ in range(draws)]).mean(dim=0)

    return mean


def off_grid(images: Tensor) -> Tensor:
    """Whether an image has pixels that are not whole 255ths, ``(batch,)``."""
    levels = images * 255
    return (levels - levels.round()).abs().amax(dim=(1, 2, 3)) > 1e-3


def one_hot(logits: Tensor, scale: float = 1.0) -> Tensor:
    """The predicted class alone, without a gradient."""
    return scale * functional.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits.dtype)


@functools.cache
def denoiser() -> nn.Module:
    """An autoencoder that removes noise, trained on noisy training images."""
    channels, height, width = shape()
    pixels = channels * height * width

    def build() -> nn.Module:
        if not cifar10():
            return nn.Sequential(
                nn.Flatten(),
                nn.Linear(pixels, 64),
                nn.ReLU(),
                nn.Linear(64, pixels),
                nn.Unflatten(1, (channels, height, width)),
            )
        return nn.Sequential(
            nn.Conv2d(channels, 24, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 24, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, channels, 3, padding=1),
        )

    def loss(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return functional.mse_loss(net(images + epsilon() * torch.randn_like(images)), images)

    return trained("denoiser", build, loss)
