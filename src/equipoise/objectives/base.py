"""The contract of an objective, and of one that trains a second network beside the first."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from equipoise.attacks.goals import Goal
from equipoise.types import Images, Labels, PerImage, Predict


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One training batch, as an objective sees it.

    Args:
        clean: Clean images in [0, 1].
        adversarial: Adversarial images, row by row the counterparts of ``clean``; equal to it for
            an objective whose ``attacks`` is false.
        labels: Class indices.
        predict_clean: Images to logits in training mode, for clean images and images derived from
            clean images alone.
        predict_adversarial: The same for adversarial images and images derived from them.
        generator: The only source of randomness.
    """

    clean: Images
    adversarial: Images
    labels: Labels
    predict_clean: Predict
    predict_adversarial: Predict
    generator: torch.Generator


@runtime_checkable
class Objective(Protocol):
    """What training minimises, and the goal that its attack climbs.

    An objective is a frozen dataclass of its settings. It never runs an attack and never sees a
    branch: a method gives it one function for clean and one for adversarial images, which AFA
    routes through different branches.
    """

    @property
    def attacks(self) -> bool:
        """Whether it needs adversarial images at all."""
        ...

    @property
    def start_noise(self) -> float | None:
        """Deviation of the Gaussian noise around the clean image at which its attack begins, in
        pixel units; ``None`` where the method's ``TrainingAttack`` says how it begins."""
        ...

    @property
    def per_image_loss(self) -> bool:
        """Whether each image's goal and loss stand alone, so that AFA may join the batches of
        several strengths into one. False for what mixes or compares images, and for an attack
        that lets some images go before others."""
        ...

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """What the attack climbs.

        Args:
            predict: Images to logits, in the mode that the method chose for attacks once the
                search runs; not before, so nothing is predicted here.
            clean: The images under attack.
            labels: Their labels.
        """
        ...

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """Per-image terms, not reduced; ``"loss"`` is what training minimises."""
        ...


@runtime_checkable
class TwoNetworkObjective(Protocol):
    """Settings of an objective that trains a companion network beside the network itself.

    The companion is part of the task: optimised, checkpointed and in training mode, and left out
    of what the task hands on. It is an ``Objective`` only beside its companion.
    """

    def companion(self, make_network: Callable[[], nn.Module]) -> nn.Module:
        """A fresh companion.

        Args:
            make_network: Makes a network like the one that it will accompany.
        """
        ...

    def beside(self, companion: nn.Module) -> Objective:
        """The objective beside its companion."""
        ...


def single_network_objective(objective: Objective | TwoNetworkObjective, method: str) -> Objective:
    """An objective as it is, for a method that has no place for a companion.

    Args:
        objective: What the method was given.
        method: The method's name.

    Returns:
        The same objective.

    Raises:
        ValueError: If it trains a companion.
    """
    if isinstance(objective, TwoNetworkObjective):
        raise ValueError(
            f"{method} cannot train {type(objective).__name__}, which trains a companion beside "
            "one whole network: here several share their weights, and nothing says which of them "
            "the companion goes with. SingleNetwork and AFS can train it."
        )
    return objective
