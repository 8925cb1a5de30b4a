"""What a method is made of: stages, each with a task that one training loop can run."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from equipoise.attacks import PGD
from equipoise.attacks.threat import L2, Linf, Threat
from equipoise.records.epsilon import Epsilon
from equipoise.types import Images, Labels, Predict

MakeNetwork = Callable[[], nn.Module]
Norm = Literal["Linf", "L2"]
THREATS: dict[str, Callable[[float | Tensor], Threat]] = {"Linf": Linf, "L2": L2}


def check_strengths(norm: Norm, *epsilons: float | None) -> None:
    """Refuse strengths and steps that the norm does not have, before anything is trained.

    Raises:
        ValueError: If one is negative or no number, or above 1 under L-inf.
    """
    for epsilon in epsilons:
        THREATS[norm](epsilon or 0.0)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """An optimiser and how its learning rate moves.

    Args:
        epochs: Passes over the training images, 1 or more.
        learning_rate: The highest rate.
        optimiser: ``"sgd"`` as in both papers, or ``"adamw"``.
        shape: ``"piecewise"`` multiplies by ``decay_factor`` at every epoch of ``decay_epochs``;
            ``"cosine"`` falls to 0 over the epochs; ``"one_cycle"`` rises linearly to 40 % of the
            epochs and falls linearly to 0.
        decay_epochs: For ``"piecewise"``, counted from 0.
        decay_factor: The papers' "decays to 0.01" is 0.1.
        momentum: Of SGD; AdamW keeps its own defaults.
        nesterov: Nesterov's form of it.
        weight_decay: On all trained parameters.
        clip_norm: Largest gradient norm, or ``None``.

    Raises:
        ValueError: If a number is out of range.
    """

    epochs: int
    learning_rate: float
    optimiser: Literal["sgd", "adamw"] = "sgd"
    shape: Literal["piecewise", "cosine", "one_cycle"] = "piecewise"
    decay_epochs: tuple[int, ...] = ()
    decay_factor: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be 1 or more, got {self.epochs}.")
        if self.optimiser not in ("sgd", "adamw"):
            raise ValueError(f"optimiser must be sgd or adamw, got {self.optimiser!r}.")
        if self.shape not in ("piecewise", "cosine", "one_cycle"):
            raise ValueError(f"shape must be piecewise, cosine or one_cycle, got {self.shape!r}.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}.")

    def rate(self, progress: float) -> float:
        """Learning rate when the share ``progress`` in [0, 1] of all steps is done."""
        if self.shape == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        if self.shape == "one_cycle":
            return self.learning_rate * min(progress / 0.4, (1 - progress) / 0.6)
        passed = sum(progress * self.epochs >= epoch - 1e-9 for epoch in self.decay_epochs)
        return self.learning_rate * self.decay_factor**passed

    def optimiser_of(self, trained: list[nn.Parameter]) -> torch.optim.Optimizer:
        """A new optimiser of some parameters, at the highest rate."""
        rate, decay = self.learning_rate, self.weight_decay
        if self.optimiser == "adamw":
            return torch.optim.AdamW(trained, lr=rate, weight_decay=decay)
        return torch.optim.SGD(
            trained, rate, self.momentum, weight_decay=decay, nesterov=self.nesterov
        )


@runtime_checkable
class Task(Protocol):
    """What one stage trains, as an ``nn.Module``: one call is one step's loss.

    The whole step, the attack included, is inside the call, so that a data-parallel wrapper reduces
    gradients once a step while the attack runs on the unwrapped network.

    A task that deals its batch out says in ``least_images`` how many it needs to give each part
    its share; where memory runs out, batches are not cut below that.
    """

    def __call__(
        self, images: Images, labels: Labels, generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """One step: ``"loss"`` to minimise, and scalars to log.

        Args:
            images: Augmented training images in [0, 1].
            labels: Class indices.
            generator: The only source of randomness.
            progress: Share of the stage's steps already done, [0, 1).
        """
        ...

    def outcome(self) -> nn.Module:
        """The trained module that later stages build on."""
        ...

    def predictor(self, epsilon: float) -> Predict:
        """How validation predicts images of a known strength; only stage I of AFA and OAT's
        stage depend on it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a plan.

    Args:
        name: Its folder, and how later stages name it in ``needs``.
        build: Makes the task from the outcomes of the stages in ``needs``; fresh weights are drawn
            from torch's global seed, which the executor sets.
        schedule: Optimiser and learning rate.
        validation: Strengths at which the validation split is attacked; the mean accuracy over
            them chooses the best epoch.
        norm: Geometry of that attack.
        needs: Names of earlier stages.
        keep: Which weights later stages get, the best epoch's or the last's.
        trains: False for a stage whose outcome is that of the task as it is built.
    """

    name: str
    build: Callable[[Mapping[str, nn.Module]], Task]
    schedule: Schedule
    validation: tuple[float, ...]
    norm: Norm = "Linf"
    needs: tuple[str, ...] = ()
    keep: Literal["best", "last"] = "best"
    trains: bool = True


class Untrained(nn.Module):
    """The task of a stage that trains nothing.

    Args:
        network: Its outcome.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def outcome(self) -> nn.Module:
        """The network."""
        return self.network

    def predictor(self, epsilon: float) -> Predict:
        """The network, whatever the strength."""
        return self.network


@dataclass(frozen=True, kw_only=True)
class TrainingAttack:
    """How a method's training attack searches, in the terms the papers use.

    Args:
        steps: Gradient steps.
        step_size: Pixel units, never longer than epsilon; or give ``relative_step``.
        relative_step: Share of epsilon; may exceed 1 for a single step (fast adversarial training).
        random_start: Begin at a random point of the threat, unless the objective says how.
        mode: Mode of the network under attack.
        warm_up: Share of a stage's steps, [0, 1], during which epsilon rises linearly from 0 to
            what it should be, where the stage trains a network; AFA's gate and AFS's merger, whose
            networks are frozen, are trained at full strength throughout.

    Raises:
        ValueError: If warm_up is not in [0, 1], or there is no such ``PGD``.

    Source:
        AFS Sec. III has 10 steps of 2/255, whatever the budget; AFA gives none. The default step
        is the same at 8/255 and shrinks with the budget.
    """

    steps: int = 10
    step_size: Epsilon | None = None
    relative_step: float | None = 0.25
    random_start: bool = True
    mode: Literal["eval", "train"] = "eval"
    warm_up: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warm_up <= 1:
            raise ValueError(f"warm_up must be a share of the steps in [0, 1], got {self.warm_up}.")
        self.search()  # refuses what cannot be searched, before anything is trained

    def search(self, start_noise: float | None = None) -> PGD:
        """The search.

        Args:
            start_noise: What the objective says of the start: the deviation of Gaussian noise
                around the clean images, or ``None``, and ``random_start`` holds.
        """
        return PGD(
            steps=self.steps,
            step_size=self.step_size,
            relative_step=self.relative_step,
            random_start=self.random_start,
            start_noise=start_noise,
        )
