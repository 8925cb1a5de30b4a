"""Robust accuracy under a single search: the quick measurement that validation makes."""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from equipoise.attacks import Search
from equipoise.attacks.finishable_goals import SuccessTracker
from equipoise.attacks.goals import misclassified
from equipoise.attacks.losses import margin
from equipoise.attacks.threat import Threat
from equipoise.data import Split
from equipoise.distributed.shared_generator import shard
from equipoise.evaluation.attack import Autocast
from equipoise.types import Predict


def robust_accuracy(
    predict: Predict,
    split: Split,
    *,
    threat: Threat,
    search: Search,
    generator: torch.Generator,
    batch_size: int = 256,
    autocast: Autocast = contextlib.nullcontext,
    total: Callable[[Tensor], Tensor] = lambda correct: correct,
) -> float:
    """Measure the accuracy under one search that maximises the margin.

    Args:
        predict: Images to logits; its networks in eval mode.
        split: Images on the network's device.
        threat: Where to search; with epsilon 0 the result is the clean accuracy.
        search: The search.
        generator: The only source of randomness. Processes with a shared generator each attack
            their share of the images.
        batch_size: Number of images at once.
        autocast: Precision of the search; what it finds is confirmed in float32.
        total: Sums a count over these processes.

    Returns:
        Share of images that are still classified correctly, in [0, 1].

    Example:
        >>> import torch
        >>> from equipoise.attacks import PGD
        >>> from equipoise.attacks.threat import Linf
        >>> from equipoise.data import Split
        >>> from equipoise.evaluation import robust_accuracy
        >>> pixels = torch.tensor([0, 51, 102, 204], dtype=torch.uint8).reshape(4, 1, 1, 1)
        >>> split = Split(images=pixels, labels=torch.tensor([0, 0, 0, 1]), classes=2)
        >>> predict = lambda images: torch.cat([0.5 - images, images - 0.5], dim=1)[:, :, 0, 0]
        >>> search = PGD(steps=4, relative_step=0.5)
        >>> for epsilon in (0.0, 0.2, 0.4):
        ...     generator = torch.Generator().manual_seed(0)
        ...     robust_accuracy(
        ...         predict, split, threat=Linf(epsilon), search=search, generator=generator
        ...     )
        1.0
        0.75
        0.25
    """

    def predict_under_autocast(images: Tensor) -> Tensor:
        with autocast():
            return predict(images)

    correct = torch.zeros((), dtype=torch.long, device=split.device)
    for rows in torch.arange(len(split), device=split.device).split(batch_size):
        images, labels = split.batch(shard(rows, generator))
        images = images.contiguous(memory_format=torch.channels_last)
        tracker = SuccessTracker(predict, labels, margin)
        with torch.no_grad():
            tracker.record(images, predict(images))
        if not isinstance(threat.epsilon, float) or threat.epsilon > 0:
            # The goal is a second tracker, to which no image is broken yet: processes that share
            # the images must draw the same starts. It still drops the images that it breaks.
            goal = SuccessTracker(
                predict_under_autocast,
                labels,
                margin,
                confirm=lambda points, labels: misclassified(predict(points), labels),
            )
            adversarial = search(goal, images, threat, generator)
            with torch.no_grad():
                tracker.record(adversarial, predict(adversarial))
        correct += (~tracker.broken).sum()
    return int(total(correct)) / len(split)
