"""Protocols of an objective, and of one that trains a second network; the batch that both see."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from equipoise.attacks.goals import Goal
from equipoise.attacks.pgd import StartNoise
from equipoise.runtime.errors import InvalidInput
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

    Example:
        >>> from equipoise.objectives import TRADES
        >>> images, network = torch.rand(4, 1, 2, 2), nn.Sequential(nn.Flatten(), nn.Linear(4, 10))
        >>> batch = Batch(
        ...     clean=images,
        ...     adversarial=images,
        ...     labels=torch.tensor([3, 1, 4, 1]),
        ...     predict_clean=network,
        ...     predict_adversarial=network,
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> terms = TRADES(beta=6.0).losses(batch)
        >>> terms["loss_robust"].tolist()  # one number for each image
        [0.0, 0.0, 0.0, 0.0]
    """

    clean: Images
    adversarial: Images
    labels: Labels
    predict_clean: Predict
    predict_adversarial: Predict
    generator: torch.Generator


@runtime_checkable
class Objective(Protocol):
    """What training minimises, and the goal that its attack maximises.

    An objective is a frozen dataclass of settings. It never runs an attack and never sees a branch:
    a method gives it one function for clean and one for adversarial images, which AFA routes
    through different branches.
    """

    @property
    def attacks(self) -> bool:
        """Whether it needs adversarial images."""
        ...

    @property
    def start_noise(self) -> StartNoise:
        """Where its attack starts; ``None`` to start as the method's ``TrainingAttack`` does."""
        ...

    @property
    def per_image_loss(self) -> bool:
        """Whether each image's goal and loss are independent of the other images.

        If so, AFA joins the batches of several strengths into one. False for an objective that
        mixes or compares images, and for an attack that stops early on some images.
        """
        ...

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """Return what the attack maximises.

        Args:
            predict: Images to logits. The method sets the mode of its network only when the search
                runs, so nothing may be predicted before.
            clean: The images under attack.
            labels: Their labels.
        """
        ...

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """Compute per-image terms, not reduced; ``"loss"`` is what training minimises."""
        ...


@runtime_checkable
class TwoNetworkObjective(Protocol):
    """Settings of an objective that trains a companion network beside the network itself.

    The companion belongs to the task: it is optimised, checkpointed and put into training mode, but
    it is not part of the task's outcome. Only ``with_companion`` gives an ``Objective``.
    """

    def make_companion(self, make_network: Callable[[], nn.Module]) -> nn.Module:
        """Make a fresh companion.

        Args:
            make_network: Makes a network like the one that the companion is trained with.
        """
        ...

    def with_companion(self, companion: nn.Module) -> Objective:
        """Return the objective that trains with this companion."""
        ...


@runtime_checkable
class ScheduledObjective(Objective, Protocol):
    """An objective whose settings depend on how far training has come."""

    def at(self, progress: float) -> Objective:
        """Return the objective of a step.

        Args:
            progress: Share of the stage's steps already done, [0, 1].
        """
        ...


def objective_at(objective: Objective, progress: float) -> Objective:
    """Return the objective of a step: itself, unless it is a ``ScheduledObjective``.

    Args:
        objective: Any objective.
        progress: Share of the stage's steps already done, [0, 1].

    Example:
        >>> from equipoise.objectives import FAT, PGDAT
        >>> objective_at(FAT(raise_at=(0.5,)), progress=0.6).tau, objective_at(PGDAT(), 0.6)
        (1, PGDAT(label_smoothing=0.0))
    """
    return objective.at(progress) if isinstance(objective, ScheduledObjective) else objective


def single_network_objective(objective: Objective | TwoNetworkObjective, method: str) -> Objective:
    """Reject an objective that trains a companion, for a method that cannot.

    Args:
        objective: The method's objective.
        method: Name of the method, for the message.

    Returns:
        The same objective.

    Raises:
        ValueError: If it trains a companion.

    Example:
        >>> from equipoise.objectives import LBGAT, PGDAT
        >>> single_network_objective(PGDAT(), "AFA")
        PGDAT(label_smoothing=0.0)
        >>> single_network_objective(LBGAT(), "AFA")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        equipoise...InvalidInput: AFA cannot train LBGAT, which trains a companion network: ...
    """
    if isinstance(objective, TwoNetworkObjective):
        raise InvalidInput(
            f"{method} cannot train {type(objective).__name__}, which trains a companion network: "
            f"the networks that {method} trains share their weights, so it is undefined which of "
            "them the companion belongs to. Use SingleNetwork or AFS, which can train it."
        )
    return objective
