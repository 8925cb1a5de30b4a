"""Defences that remember what they were asked."""

import torch
from torch import Tensor, nn

from defences.base import Defence, epsilon, one_hot, robust, standard


class _Repeats(Defence):
    """Repeats its earlier answer to an image that is close to an earlier one."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.keys: Tensor | None = None
        self.answers = torch.zeros(0)

    def forward(self, images: Tensor) -> Tensor:
        logits, flat = self.net(images), images.detach().flatten(1)
        if self.keys is None:
            self.keys, self.answers = flat, logits.detach()
            return logits
        nearest, place = torch.cdist(flat, self.keys, p=torch.inf).min(dim=1)
        old = nearest <= 2 * epsilon()
        repeated = logits - logits.detach() + self.answers[place]
        logits = torch.where(old[:, None], repeated, logits)
        self.keys = torch.cat([self.keys, flat[~old]])
        self.answers = torch.cat([self.answers, logits.detach()[~old]])
        return logits


def repeats() -> nn.Module:
    return _Repeats(standard())


def repeats_robust() -> nn.Module:
    return _Repeats(robust())


class _WarmsUp(Defence):
    """Answers its first batch as it is, and smooths every later image."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= 2:
            return self.net(images)
        levels = torch.round(images.detach() / (2 * epsilon())) * 2 * epsilon()
        return self.net(images + (levels - images).detach())


def first_calls_differ() -> nn.Module:
    return _WarmsUp(standard())


class _Tires(Defence):
    """Freezes its answers after as many images as an evaluation's clean pass has."""

    def __init__(self, net: nn.Module, allowed: int) -> None:
        super().__init__(net)
        self.allowed, self.seen = allowed, 0
        self.clean: Tensor | None = None
        self.answers = torch.zeros(0)

    def forward(self, images: Tensor) -> Tensor:
        logits, flat = self.net(images), images.detach().flatten(1)
        self.seen += len(images)
        if self.seen <= self.allowed:
            known = [] if self.clean is None else [self.clean]
            self.clean = torch.cat([*known, flat])
            self.answers = torch.cat([self.answers, one_hot(logits, 10.0)])
            return logits
        assert self.clean is not None
        nearest = torch.cdist(flat, self.clean).argmin(dim=1)
        return self.answers[nearest] + 0 * logits


def counter() -> nn.Module:
    return _Tires(standard(), allowed=400)
