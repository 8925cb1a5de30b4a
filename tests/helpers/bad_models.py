"""Small classifiers of digits, sound and misleading, for the self-checks."""

import functools
from collections.abc import Callable

import torch
from tiny import digits
from torch import Tensor, nn
from torch.nn import functional

from equipoise.models import FeatureStack

EPSILON = 0.2

NOISE = 0.01
"""Small on purpose. A random model draws again at every visited point, so a long attack breaks
images by luck alone, and the check "more steps" measures that. Out of 128 images, noise of 0.01
breaks 0 to 2 this way over three networks and two seeds, and the check fails from 14 on. Noise of
0.05 broke 4 to 14, so the check failed or not by the rounding of the processor."""


NOISE_OF_GRADIENT = 2.0
"""Size of the noise as a multiple of the gradient's."""


def network(seed: int = 0) -> nn.Module:
    """One hidden layer."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def attacked(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Five sign steps on the cross-entropy."""
    points = images
    for _ in range(5):
        points = points.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(net(points), labels), points)
        points = points.detach() + 0.4 * EPSILON * gradient.sign()
        points = points.clamp(images - EPSILON, images + EPSILON).clamp(0, 1)
    return points


Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]


def trained(loss: Loss, steps: int, seed: int = 0) -> nn.Module:
    """Train a network with Adam on a loss."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = digits(train=1347).train.batch(slice(None))
    net = network(seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
    for _ in range(steps):
        rows = torch.randint(0, len(labels), (128,), generator=generator)
        value = loss(net, images[rows], labels[rows], generator)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
    return net.eval()


@functools.cache
def standard() -> nn.Module:
    """Train on clean images."""
    return trained(lambda net, x, y, _: functional.cross_entropy(net(x), y), 150)


@functools.cache
def robust(seed: int = 0) -> nn.Module:
    """Train with PGD-AT."""
    return trained(
        lambda net, x, y, _: functional.cross_entropy(net(attacked(net, x, y)), y), 300, seed
    )


@functools.cache
def flattened() -> nn.Module:
    """Train with adversarial vertex mixup.

    Its targets near the vertex are uniform, so the cross-entropy is flat where the attack goes
    although the decision is not.
    """

    def loss(net: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        share = torch.rand(len(images), generator=generator)[:, None]
        vertex = (images + 2 * (attacked(net, images, labels) - images)).clamp(0, 1)
        between = share[:, :, None, None] * images + (1 - share[:, :, None, None]) * vertex
        targets = share * functional.one_hot(labels, 10) + (1 - share) * 0.1
        return functional.cross_entropy(net(between), targets)

    return trained(loss, 1000)


def stack() -> nn.Module:
    """Build a feature stack of two robust networks whose merger averages their heads."""
    members = [robust(0), robust(1)]
    model = FeatureStack(members, classes=10)
    with torch.no_grad():
        model.merger.weight.copy_(torch.cat([net[-1].weight for net in members], dim=1) / 2)
        model.merger.bias.copy_(sum(net[-1].bias for net in members) / 2)
    return model.eval()


class Wrapper(nn.Module):
    """A network with something before or after it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.eval()


class Noisy(Wrapper):
    """Adds noise to every image."""

    def forward(self, images):
        return self.net(images + NOISE * torch.randn_like(images))


class NoisyWhenAttacked(Wrapper):
    """Adds noise to images whose pixels are not whole 255ths, as those of clean images are."""

    def forward(self, images):
        return self.net(images + NOISE * torch.randn_like(images) * off_levels(images))


class OnBatchStatistics(Wrapper):
    """A batch norm without running statistics."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.norm = nn.BatchNorm2d(1, affine=False, track_running_stats=False).eval()

    def forward(self, images):
        return self.net(0.37 * self.norm(images) + 0.3)


class ByPlace(Wrapper):
    """Scales the logits of the second half of a batch."""

    def forward(self, images):
        factor = torch.where(torch.arange(len(images)) < len(images) // 2, 1.0, 2.0)
        return self.net(images) * factor[:, None]


class Probabilities(Wrapper):
    """Ends in a softmax."""

    def forward(self, images):
        return self.net(images).softmax(dim=1)


class Times(Wrapper):
    """Multiplies the logits."""

    def __init__(self, net: nn.Module, factor: float) -> None:
        super().__init__(net)
        self.factor = factor

    def forward(self, images):
        return self.net(images) * self.factor


class Quantised(Wrapper):
    """Rounds images to five levels, which has no gradient."""

    def forward(self, images):
        return self.net(torch.round(images * 4) / 4)


class Rippled(Wrapper):
    """Adds a fine ripple to every pixel, which changes hardly more than the gradient's sign."""

    def forward(self, images):
        return self.net(images + 0.01 * torch.sin(1000 * images))


class Reversed(Wrapper):
    """Negates the gradient at images whose pixels are not whole 255ths."""

    def forward(self, images):
        return self.net(_Reverse.apply(images))


class NoisyBackward(Wrapper):
    """The right answer, with a gradient that is mostly noise, the same for the same images."""

    def forward(self, images):
        return self.net(_AddNoise.apply(images))


class Slow(Wrapper):
    """Passes the gradient at a few random pixels, so that attacks converge slowly."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, images):
        mask = torch.rand(images.shape, generator=self.generator) < 0.04
        return self.net(images.detach() + (images - images.detach()) * mask)


class Decoy(Wrapper):
    """Answers as the network, with the gradient of an untrained one."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.decoy = [network(11).eval()]  # in a list, so that it is no part of the weights

    def forward(self, images):
        with torch.no_grad():
            logits = self.net(images)
        return _WrongBackward.apply(images, logits, self.decoy[0])


class StraightThrough(Wrapper):
    """Turns images to some levels by a function, with the gradient of the identity."""

    def __init__(self, net: nn.Module, front: Callable[[Tensor], Tensor]) -> None:
        super().__init__(net)
        self.front = front

    def forward(self, images):
        return self.net(images + (self.front(images) - images).detach())


class FlatOffGrid(Wrapper):
    """Answers with the class alone where pixels are not whole 255ths."""

    def forward(self, images):
        logits = self.net(images)
        flat = 20.0 * functional.one_hot(logits.argmax(dim=1), 10) + 0 * logits
        return torch.where(off_levels(images).flatten(1) > 0, flat, logits)


class Pooled(Wrapper):
    """Takes maxima of neighbouring pixels first, whose gradient reaches few pixels."""

    def forward(self, images):
        return self.net(functional.max_pool2d(images, 3, stride=1, padding=1))


class Detached(Wrapper):
    """Computes under ``no_grad``."""

    def forward(self, images):
        with torch.no_grad():
            return self.net(images)


class Constant(nn.Module):
    """Always class 0, with a zero gradient. It counts the images that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.eval()

    def forward(self, images):
        self.seen += len(images)
        logits = functional.one_hot(torch.zeros(len(images)).long(), 10).float()
        return logits + 0 * images.sum(dim=(1, 2, 3))[:, None]


class Raising(Wrapper):
    """Raises for images whose pixels are not whole 255ths."""

    def forward(self, images):
        if bool((off_levels(images) > 0).any()):
            raise RuntimeError("not a digit")
        return self.net(images)


class NotNumbers(Wrapper):
    """Returns NaN for bright images."""

    def forward(self, images):
        bright = images.mean(dim=(1, 2, 3), keepdim=True).squeeze(3).squeeze(2) > 0.3
        return torch.where(bright, torch.nan, self.net(images))


def off_levels(images: Tensor) -> Tensor:
    """Return 1 for images whose pixels are not whole 255ths, else 0, ``(batch, 1, 1, 1)``."""
    levels = images * 255
    return ((levels - levels.round()).abs().amax(dim=(1, 2, 3), keepdim=True) > 1e-3).float()


class _WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images, logits, decoy):
        ctx.save_for_backward(images)
        ctx.decoy = decoy
        return logits.clone()

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            points = ctx.saved_tensors[0].detach().requires_grad_(True)
            (found,) = torch.autograd.grad(ctx.decoy(points), points, gradient)
        return found, None, None


class _AddNoise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images):
        ctx.seed = int(images.double().sum() * 1e9) % 2**31
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        generator = torch.Generator().manual_seed(ctx.seed)
        noise = torch.randn(gradient.shape, generator=generator)
        size = gradient.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return gradient + NOISE_OF_GRADIENT * size * noise


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images):
        ctx.save_for_backward(images)
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        (images,) = ctx.saved_tensors
        return gradient * (1 - 2 * off_levels(images))
