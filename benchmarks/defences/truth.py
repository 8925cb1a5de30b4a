"""Accuracy of a model under attacks by somebody who knows how it works.

Every attack ascends on a view of the model (``Defence.attack_views``) and never asks the deployed
model. Its images are then sent once to a freshly deployed copy: as they are, and rounded to 8 bits.
The result is an upper bound like any other, but no trick of the deployed model can raise it.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from defences.base import Defence, Forward
from equipoise.models import AdaptiveNetwork, FeatureStack

STEPS = 50
TARGETS = 3


def true_accuracy(
    make: Callable[[], nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    randomised: bool,
) -> dict[str, Any]:
    """Attack a model adaptively.

    Args:
        make: Deploys a fresh copy.
        images: Clean images in [0, 1].
        labels: Their labels.
        epsilon: L-inf strength.
        randomised: Whether the model's answers are random: then the lowest accuracy of a single
            attack counts, because the worst case over many draws would be luck. Otherwise each
            image's worst case counts.

    Returns:
        ``clean``, ``accuracy`` and, by attack, ``attacks``; accuracies as shares.
    """
    torch.manual_seed(0)

    def right(points: Tensor) -> Tensor:
        deployed = make()
        with torch.no_grad():
            return deployed(points).argmax(dim=1) == labels

    clean = right(images)
    answers = {
        name: right(points) & clean
        for name, points in _attacks(make(), images, labels, epsilon=epsilon)
    }
    accuracies = {name: float(kept.double().mean()) for name, kept in answers.items()}
    together = float(torch.stack(list(answers.values())).all(dim=0).double().mean())
    return {
        "clean": float(clean.double().mean()),
        "accuracy": min(accuracies.values()) if randomised else together,
        "attacks": accuracies,
    }


def _attacks(
    model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float
) -> Iterator[tuple[str, Tensor]]:
    for view_name, view in _views(model).items():
        for loss_name, loss in _losses(view, images, labels):
            points = ascend(view, loss, images, labels, epsilon)
            yield f"{view_name}, {loss_name}", points
            yield f"{view_name}, {loss_name}, 8 bits", (points * 255).round() / 255


def _views(model: nn.Module) -> dict[str, Forward]:
    if isinstance(model, Defence):
        return model.attack_views()
    views: dict[str, Forward] = {"own gradient": model}
    if isinstance(model, AdaptiveNetwork):
        for weight in (0.0, model.ceiling / 2, model.ceiling):
            views[f"fusing weight {weight:g}"] = partial(model, weight=weight)
    if isinstance(model, FeatureStack):
        for number, member in enumerate(model.members):
            views[f"member {number}"] = member.network
    return views


Loss = Callable[[Tensor, Tensor], Tensor]


def _losses(view: Forward, images: Tensor, labels: Tensor) -> Iterator[tuple[str, Loss]]:
    """Cross-entropy of logits of unit spread, the margin, and the likeliest wrong classes."""
    yield "cross-entropy", _cross_entropy
    yield "margin", margin
    with torch.no_grad():
        logits = view(images).double()[:, : int(labels.max()) + 1]
    wrong = logits.scatter(1, labels[:, None], -torch.inf).topk(TARGETS, dim=1).indices
    for rank in range(TARGETS):
        target = wrong[:, rank : rank + 1]
        yield (
            f"target {rank + 1}",
            lambda found, labels, target=target: (
                found.gather(1, target) - found.gather(1, labels[:, None])
            )[:, 0],
        )


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    spread = logits.detach().std(dim=1, keepdim=True).clamp_min(1e-12)
    return functional.cross_entropy(5 * logits / spread, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest wrong logit minus the label's."""
    own = logits.gather(1, labels[:, None])[:, 0]
    return logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1) - own


def ascend(view: Forward, loss: Loss, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Sign steps with momentum and a falling length; each image keeps its best margin."""
    start = images + epsilon * (2 * torch.rand_like(images) - 1)
    points = start.clamp(0, 1)
    momentum = torch.zeros_like(points)
    best, highest = images, torch.full((len(images),), -torch.inf, dtype=torch.float64)
    for step in range(STEPS + 1):
        points = points.detach().requires_grad_(True)
        logits = view(points).double()
        reached = margin(logits, labels).detach()
        better = reached > highest
        best = torch.where(better[:, None, None, None], points.detach(), best)
        highest = torch.where(better, reached, highest)
        if step == STEPS:
            return best
        (gradient,) = torch.autograd.grad(loss(logits, labels).sum(), points)
        gradient = gradient.nan_to_num()
        size = gradient.abs().flatten(1).mean(dim=1).clamp_min(1e-30)[:, None, None, None]
        momentum = 0.75 * momentum + gradient / size
        length = epsilon * 0.5 * (1 - step / STEPS) + 0.01 * epsilon
        points = points.detach() + length * momentum.sign()
        points = points.clamp(images - epsilon, images + epsilon).clamp(0, 1)
    raise AssertionError("the last step returns")
