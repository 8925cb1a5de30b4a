"""Defences inside the network."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from defences.base import (
    CLASSES,
    Defence,
    Forward,
    Loss,
    cnn,
    cross_entropy,
    eot,
    epsilon,
    network,
    robust,
    standard,
    trained,
    training_batch,
)


class _WinnersTakeAll(nn.Module):
    """Keeps the largest tenth of the features."""

    def forward(self, features: Tensor) -> Tensor:
        flat = features.flatten(1)
        kept = flat.topk(max(1, flat.shape[1] // 10), dim=1).values[:, -1]
        kept = kept.reshape(-1, *[1] * (features.ndim - 1))
        return torch.where(features >= kept, features, 0.0)


class _Smoothed(Defence):
    """A network whose attacker averages gradients over noise, as its own are not smooth."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def attack_views(self) -> dict[str, Forward]:
        def noisy(images: Tensor) -> Tensor:
            return self.net(images + 0.4 * epsilon() * torch.randn_like(images))

        return {"transfer": standard(), "own gradient": self.net, "smoothed": eot(noisy, 8)}


def k_winners() -> nn.Module:
    return _Smoothed(trained("k-winners", lambda: network(_WinnersTakeAll)))


class _Sign(nn.Module):
    """Sign, with the straight-through gradient in training and in attack views only."""

    honest = True

    def forward(self, features: Tensor) -> Tensor:
        signs = torch.sign(features)
        if not self.honest:
            return signs
        smooth = torch.tanh(features)
        return smooth + (signs - smooth).detach()


class _Binarised(Defence):
    def forward(self, images: Tensor) -> Tensor:
        return self._run(images, honest=False)

    def _run(self, images: Tensor, honest: bool) -> Tensor:
        for module in self.net.modules():
            if isinstance(module, _Sign):
                module.honest = honest
        return self.net(images)

    def attack_views(self) -> dict[str, Forward]:
        return {
            "transfer": standard(),
            "straight through": lambda images: self._run(images, honest=True),
        }


def sign_activation() -> nn.Module:
    return _Binarised(trained("sign", lambda: network(_Sign)))


class _Perturbed(Defence):
    """Puts random numbers in front of the last layer, or of every weight.

    Args:
        net: The network.
        kind: ``dropout``, ``pruning`` or ``weights``.
    """

    def __init__(self, net: nn.Module, kind: str) -> None:
        super().__init__(net)
        self.kind = kind

    def forward(self, images: Tensor) -> Tensor:
        assert isinstance(self.net, nn.Sequential)
        if self.kind == "weights":
            weights = {
                name: value + 0.2 * value.std() * torch.randn_like(value)
                for name, value in self.net.named_parameters()
            }
            return torch.func.functional_call(self.net, weights, (images,))
        features = self.net[:-1](images)
        if self.kind == "dropout":
            features = functional.dropout(features, 0.5, training=True)
        else:
            shares = features.abs() / features.abs().sum(dim=1, keepdim=True).clamp_min(1e-9)
            kept = 1 - (1 - shares) ** features.shape[1]
            features = features * (torch.rand_like(kept) < kept) / kept.clamp_min(1e-9)
        return self.net[-1](features)

    def attack_views(self) -> dict[str, Forward]:
        return super().attack_views() | {"own gradient, EOT": eot(self.forward, 12)}


def dropout() -> nn.Module:
    return _Perturbed(standard(), "dropout")


def activation_pruning() -> nn.Module:
    return _Perturbed(standard(), "pruning")


def weight_noise() -> nn.Module:
    return _Perturbed(standard(), "weights")


class _OnBatchStatistics(Defence):
    """A network with batch norms that use the statistics of the batch at hand."""

    def __init__(self) -> None:
        super().__init__(trained("batch-norm", lambda: cnn(norm=_batch_norm)))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def attack_views(self) -> dict[str, Forward]:
        return {"transfer": standard(), "own gradient": self.net}


def _batch_norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, track_running_stats=False)


def batch_statistics() -> nn.Module:
    return _OnBatchStatistics()


class _Neighbours(Defence):
    """Votes of the five nearest training images in the space of features."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__(net)
        images, labels = training_batch()
        with torch.no_grad():
            self.register_buffer("known", self.features(images[:2000]))
        self.register_buffer("labels", functional.one_hot(labels[:2000], CLASSES).float())

    def features(self, images: Tensor) -> Tensor:
        assert isinstance(self.net, nn.Sequential)
        return functional.normalize(self.net[:-1](images), dim=1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        nearest = torch.cdist(features, self.known).topk(5, dim=1, largest=False).indices
        return self.labels[nearest].sum(dim=1) + 0 * features.sum(dim=1, keepdim=True)

    def attack_views(self) -> dict[str, Forward]:
        def soft(images: Tensor) -> Tensor:
            squares = 2 - 2 * self.features(images) @ self.known.T
            votes = (-20 * squares)[:, :, None] + (self.labels + 1e-20).log()
            return votes.logsumexp(dim=1)

        return super().attack_views() | {"soft votes": soft}


def neighbours() -> nn.Module:
    return _Neighbours(standard())  # type: ignore[arg-type]


class _AntiAdversary(Defence):
    """Moves every image to where the network is surer of its prediction."""

    def forward(self, images: Tensor) -> Tensor:
        moved = images.detach()
        with torch.no_grad():
            labels = self.net(moved).argmax(dim=1)
        for _ in range(2):
            with torch.enable_grad():
                points = moved.detach().requires_grad_(True)
                (gradient,) = torch.autograd.grad(cross_entropy(self.net, points, labels), points)
            moved = (points - 0.75 * epsilon() * gradient.sign()).detach()
        return self.net(images + (moved - images).detach())


def anti_adversary() -> nn.Module:
    return _AntiAdversary(standard())


def anti_adversary_robust() -> nn.Module:
    return _AntiAdversary(robust())


class _Votes(Defence):
    """Counts the votes of several networks, without a gradient."""

    def __init__(self) -> None:
        super().__init__(nn.ModuleList([standard(seed) for seed in range(5)]))

    def forward(self, images: Tensor) -> Tensor:
        votes = sum(
            functional.one_hot(net(images).argmax(dim=1), CLASSES).float() for net in self.net
        )
        return votes + 0 * images.sum(dim=(1, 2, 3))[:, None]

    def attack_views(self) -> dict[str, Forward]:
        def mean(images: Tensor) -> Tensor:
            return sum(net(images) for net in self.net)  # type: ignore[return-value]

        def probabilities(images: Tensor) -> Tensor:
            return sum((net(images) / 5).softmax(dim=1) for net in self.net)  # type: ignore

        return {"mean of logits": mean, "mean of probabilities": probabilities}


def hard_vote() -> nn.Module:
    return _Votes()


class _Codes(Defence):
    """Reads the class from the nearest of ten code words of 16 bits."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        words = torch.randint(0, 2, (CLASSES, 16), generator=generator).float() * 2 - 1
        super().__init__(trained("codes", lambda: _code_network(words), _code_loss(words)))
        self.words = words

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(20 * self.net(images)) @ self.words.T

    def attack_views(self) -> dict[str, Forward]:
        return {"transfer": standard(), "before tanh": lambda x: self.net(x) @ self.words.T}


def _code_network(words: Tensor) -> nn.Module:
    net = network()
    net[-1] = nn.Linear(net[-1].in_features, words.shape[1])
    return net


def _code_loss(words: Tensor) -> Loss:
    def loss(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return functional.softplus(-words[labels] * net(images)).mean()

    return loss


def output_codes() -> nn.Module:
    return _Codes()
