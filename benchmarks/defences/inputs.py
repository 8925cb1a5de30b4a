"""Defences that transform the input."""

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional

from defences.base import (
    Defence,
    Forward,
    Transformed,
    cross_entropy,
    denoiser,
    eot,
    epsilon,
    network,
    off_grid,
    one_hot,
    robust,
    standard,
    straight_through,
    trained,
    training_batch,
)

LUMINANCE = [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]
"""Quantisation of JPEG's quality 50 (ITU T.81, Annex K)."""


def _compressed(images: Tensor) -> Tensor:
    """JPEG's lossy step: 8x8 blocks, quantised in the cosine basis."""
    index = torch.arange(8.0)
    basis = torch.cos(torch.pi * (2 * index[None] + 1) * index[:, None] / 16) / 2
    basis[0] /= 2**0.5
    table = torch.tensor(LUMINANCE, dtype=torch.float32) * 1.5
    blocks = images.unfold(2, 8, 8).unfold(3, 8, 8) * 255 - 128
    coefficients = basis @ blocks @ basis.T
    blocks = basis.T @ (torch.round(coefficients / table) * table) @ basis
    rows = torch.cat(list(blocks.unbind(2)), dim=-2)  # (batch, channel, columns, height, 8)
    whole = torch.cat(list(rows.unbind(2)), dim=-1)
    return ((whole + 128) / 255).clamp(0, 1)


def jpeg() -> nn.Module:
    return Transformed(standard(), _compressed)


def jpeg_robust() -> nn.Module:
    return Transformed(robust(), _compressed)


def bit_depth() -> nn.Module:
    return Transformed(standard(), lambda images: torch.round(images * 3) / 3)


def _median(images: Tensor) -> Tensor:
    padded = functional.pad(images, (1, 0, 1, 0), mode="replicate")
    windows = padded.unfold(2, 2, 1).unfold(3, 2, 1).flatten(4)
    return windows.sort(dim=-1).values[..., 1]


def _trained_with(name: str, transform: Forward) -> nn.Module:
    """The usual network, trained on transformed images."""

    def loss(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(net, transform(images), labels)

    return trained(name, network, loss)


def median_filter() -> nn.Module:
    return Transformed(_trained_with("median", _median), _median, differentiable=True)


def _total_variation(images: Tensor) -> Tensor:
    """Drop random pixels, then fill them in with little total variation."""
    mask = (torch.rand_like(images[:, :1]) < 0.8).float()
    images = images.detach()
    found = images * mask
    for _ in range(8):
        padded = functional.pad(found, (1, 1, 1, 1), mode="replicate")
        descent = sum(
            torch.sign(found - other)
            for other in (
                padded[:, :, 2:, 1:-1],
                padded[:, :, :-2, 1:-1],
                padded[:, :, 1:-1, 2:],
                padded[:, :, 1:-1, :-2],
            )
        )
        found = found - 0.1 * (2 * mask * (found - images) + 0.05 * descent)
        found = found + (1 - mask) * 0.3 * (functional.avg_pool2d(padded, 3, 1) - found)
    return found.clamp(0, 1)


def total_variation() -> nn.Module:
    return Transformed(standard(), _total_variation, draws=6)


def _resized_and_padded(images: Tensor) -> Tensor:
    """Shrink by up to a quarter, and place at random."""
    size = images.shape[-1]
    small = size - int(torch.randint(0, size // 4 + 1, ()))
    images = functional.interpolate(images, size=(small, small), mode="bilinear")
    left, top = torch.randint(0, size - small + 1, (2,)).tolist()
    return functional.pad(images, (left, size - small - left, top, size - small - top))


def resize_and_pad() -> nn.Module:
    net = _trained_with("resized", _resized_and_padded)
    return Transformed(net, _resized_and_padded, draws=12, differentiable=True)


def _cropped(images: Tensor) -> Tensor:
    """Cut out seven eighths at random, and enlarge them."""
    size = images.shape[-1]
    crop = size - max(1, size // 8)
    left, top = torch.randint(0, size - crop + 1, (2,)).tolist()
    part = images[:, :, top : top + crop, left : left + crop]
    return functional.interpolate(part, size=(size, size), mode="bilinear")


class _CropEnsemble(Defence):
    """Averages the probabilities of random crops."""

    def forward(self, images: Tensor) -> Tensor:
        total = sum(self.net(_cropped(images)).softmax(dim=1) for _ in range(8))
        return (total / 8 + 1e-6).log()

    def attack_views(self) -> dict[str, Forward]:
        return super().attack_views() | {"own gradient, EOT": eot(self.forward, 2)}


def crop_ensemble() -> nn.Module:
    return _CropEnsemble(_trained_with("cropped", _cropped))


@functools.cache
def _quantiles() -> Tensor:
    """Nine quantiles of every pixel over the training images, ``(9, channel, height, width)``."""
    images, _ = training_batch()
    return torch.quantile(images[:2000], torch.linspace(0, 1, 9), dim=0)


def _to_likely_levels(images: Tensor) -> Tensor:
    """Move every pixel to the nearest quantile within epsilon, where there is one."""
    distance = (images[:, None] - _quantiles()[None]).abs()
    nearest = distance.min(dim=1)
    likely = _quantiles()[None].expand_as(distance).gather(1, nearest.indices[:, None])[:, 0]
    return torch.where(nearest.values <= epsilon(), likely, images.detach())


def likely_levels() -> nn.Module:
    return Transformed(standard(), _to_likely_levels)


def gaussian_noise() -> nn.Module:
    return Transformed(
        standard(),
        lambda images: images + 0.7 * epsilon() * torch.randn_like(images),
        draws=12,
        differentiable=True,
    )


def gaussian_noise_robust() -> nn.Module:
    return Transformed(
        robust(),
        lambda images: images + epsilon() * torch.randn_like(images),
        draws=12,
        differentiable=True,
    )


def _denoised(images: Tensor) -> Tensor:
    with torch.no_grad():
        return denoiser()(images).clamp(0, 1)


class _Reformer(Transformed):
    """An autoencoder before the network; the attacker also differentiates through it."""

    def attack_views(self) -> dict[str, Forward]:
        through = eot(lambda images: self.net(denoiser()(images).clamp(0, 1)), 1)
        return super().attack_views() | {"through the autoencoder": through}


def reformer() -> nn.Module:
    return _Reformer(standard(), _denoised)


def _purified(images: Tensor) -> Tensor:
    images = images.detach()
    for _ in range(3):
        images = _denoised(images + 0.5 * epsilon() * torch.randn_like(images))
    return images


def purification() -> nn.Module:
    return _Reformer(standard(), _purified, draws=16)


class _MixupInference(Defence):
    """Averages the logits of mixtures with random training images."""

    def forward(self, images: Tensor) -> Tensor:
        others, _ = training_batch()
        total = 0.0
        for _ in range(8):
            rows = torch.randint(0, len(others), (len(images),))
            total = total + self.net(0.6 * images + 0.4 * others[rows])
        return total / 8

    def attack_views(self) -> dict[str, Forward]:
        return super().attack_views() | {"own gradient, EOT": eot(self.forward, 2)}


def mixup_inference() -> nn.Module:
    return _MixupInference(standard())


class _OffGrid(Defence):
    """Answers flatly where pixels are not whole 255ths, as those of clean images are."""

    def forward(self, images: Tensor) -> Tensor:
        logits = self.net(images)
        flat = one_hot(logits, 20.0) + 0 * logits
        return torch.where(off_grid(images)[:, None], flat, logits)


def off_grid_gate() -> nn.Module:
    return _OffGrid(standard())


def off_grid_gate_robust() -> nn.Module:
    return _OffGrid(robust())


def _noise_of_the_image(images: Tensor) -> Tensor:
    """Noise that is a function of the image, but of no neighbour of it."""
    weights = torch.linspace(1.0, 2.0, images[0].numel(), dtype=torch.float64)
    keys = images.detach().flatten(1).double() @ weights
    phases = torch.arange(images[0].numel(), dtype=torch.float64)
    noise = torch.sin(keys[:, None] * 1e7 + phases[None] ** 2 * 1.7)
    return images + 0.7 * epsilon() * noise.reshape(images.shape).to(images.dtype)


def input_hash() -> nn.Module:
    return Transformed(standard(), _noise_of_the_image, draws=1)


LEVELS = 16


class _Thermometer(Defence):
    """Writes every pixel as a row of thresholds that it exceeds."""

    def __init__(self) -> None:
        super().__init__(
            trained("thermometer", lambda: network(copies=LEVELS), loss=_thermometer_loss)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.net(_encoded(images))

    def attack_views(self) -> dict[str, Forward]:
        def soft(images: Tensor) -> Tensor:
            smooth = torch.sigmoid((images[:, :, None] - _thresholds()) * LEVELS)
            return self.net(straight_through(smooth.flatten(1, 2), _encoded(images)))

        return {"transfer": standard(), "sigmoids": soft}


def _thresholds() -> Tensor:
    return ((torch.arange(LEVELS) + 0.5) / LEVELS)[:, None, None]


def _encoded(images: Tensor) -> Tensor:
    return (images[:, :, None] > _thresholds()).to(images.dtype).flatten(1, 2)


def _thermometer_loss(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(net, _encoded(images), labels)


def thermometer() -> nn.Module:
    return _Thermometer()


def ripple() -> nn.Module:
    """Adds a fine ripple, which changes hardly more than the gradient's sign."""
    return Transformed(standard(), lambda images: images + 0.01 * torch.sin(1000 * images))
