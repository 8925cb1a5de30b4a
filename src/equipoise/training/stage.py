"""Stages, of which every method's plan is made, and the tasks that the training loop runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from equipoise.attacks.threat import Norm
from equipoise.data import Split
from equipoise.training.schedule import Schedule
from equipoise.types import Images, Labels, Predict

MakeNetwork = Callable[[], nn.Module]
"""Makes a network with fresh weights, drawn from torch's global seed."""


@runtime_checkable
class Task(Protocol):
    """What one stage trains: an ``nn.Module`` whose forward is one training step's loss.

    The whole step, including the attack, runs inside the call. A data-parallel wrapper then reduces
    gradients once a step, while the attack uses the unwrapped network.

    A task that divides a batch into parts has an attribute ``least_images``, the smallest batch
    that gives every part its share. Batches are not cut below it when memory runs out.
    """

    def __call__(
        self, images: Images, labels: Labels, generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute one step: ``"loss"`` to minimise, and scalars to log.

        Args:
            images: Augmented training images in [0, 1].
            labels: Class indices.
            generator: The only source of randomness.
            progress: Share of the stage's steps already done, [0, 1).
        """
        ...

    def outcome(self) -> nn.Module:
        """Return the trained module, which later stages build on."""
        ...

    def predictor(self, epsilon: float) -> Predict:
        """Return the function that validation predicts with at a known strength.

        Only AFA's stage I and OAT, which route images by their strength, depend on it.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a plan.

    Args:
        name: Name of its folder, by which later stages refer to it in ``needs``.
        build: Makes the task from the outcomes of the stages in ``needs``. Fresh weights are drawn
            from torch's global seed, which the executor sets.
        schedule: Optimiser and learning rate.
        validation: Strengths of the attack on the validation split; the mean accuracy over them
            chooses the best epoch.
        norm: Norm of that attack.
        needs: Names of earlier stages.
        keep: Which weights later stages get: those of the best epoch or the last epoch.
        trains: Whether the stage is trained; if not, its outcome is used as built.
        settings: All other settings that the trained weights depend on.
        schedule_field: The field of the method that holds the schedule, for messages.
        examine: Looks at the trained task, in eval mode, on validation images; the warnings that it
            returns are printed and stored.
    """

    name: str
    build: Callable[[Mapping[str, nn.Module]], Task]
    schedule: Schedule
    validation: tuple[float, ...]
    norm: Norm = "Linf"
    needs: tuple[str, ...] = ()
    keep: Literal["best", "last"] = "best"
    trains: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    schedule_field: str = "schedule"
    examine: Callable[[Any, Split], list[str]] | None = None

    def remedy(self, rate: float | None = None) -> str:
        """What helps against infinities and NaN, with the flags that set it."""
        flag = f"--method.{self.schedule_field.replace('_', '-')}"
        was = "" if rate is None else f"it was {rate:g}; "
        return (
            f"Lower the learning rate ({was}{flag}.learning-rate), set the schedule's clip_norm "
            f"({flag}.clip-norm 1), or train in 32-true precision."
        )


class UntrainedTask(nn.Module):
    """Task of a stage that trains nothing.

    Args:
        network: Its outcome.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def outcome(self) -> nn.Module:
        """Return the network."""
        return self.network

    def predictor(self, epsilon: float) -> Predict:
        """Return the network, whatever the strength."""
        return self.network
