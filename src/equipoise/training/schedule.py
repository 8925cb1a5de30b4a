"""Optimiser and learning-rate schedule of one stage.

Epochs are counted from 0 here and from 1 in the papers: their decay "at the 75th epoch" is 74, the
index of the first epoch at the lower rate.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from equipoise.runtime.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Number of epochs, optimiser and learning rate of one stage.

    Args:
        epochs: Passes over the training images, 1 or more.
        learning_rate: Highest learning rate, above 0.
        optimiser: ``"sgd"``, as in both papers, or ``"adamw"``.
        shape: ``"piecewise"`` multiplies the rate by ``decay_factor`` at each epoch in
            ``decay_epochs``; ``"cosine"`` lowers it to 0 over all epochs; ``"one_cycle"`` raises it
            linearly from 0 during the first 40 % of the steps, then lowers it linearly to 0.
        decay_epochs: Epochs, counted from 0, at which ``"piecewise"`` lowers the rate.
        decay_factor: Factor at each of them; the papers' decay from 0.1 to 0.01 is 0.1.
        momentum: Momentum of SGD. AdamW uses PyTorch's default betas.
        nesterov: Use Nesterov momentum in SGD.
        weight_decay: Weight decay of all trained parameters.
        clip_norm: Largest norm of the gradient, or ``None`` for no clipping.
        batch_size: Images per step of this stage, 1 or more; ``None`` for the loop's. AFS's merger
            has 100 where its extractors have 128.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> schedule = Schedule(epochs=100, learning_rate=0.1, decay_epochs=(75, 90))
        >>> [round(schedule.rate(progress), 6) for progress in (0.0, 0.74, 0.75, 0.9)]
        [0.1, 0.1, 0.01, 0.001]
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
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InvalidInput(f"epochs must be 1 or more, got {self.epochs}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise InvalidInput(f"batch_size must be 1 or more, got {self.batch_size}.")
        if self.optimiser not in ("sgd", "adamw"):
            raise InvalidInput(f"optimiser must be sgd or adamw, got {self.optimiser!r}.")
        if self.shape not in ("piecewise", "cosine", "one_cycle"):
            raise InvalidInput(f"shape must be piecewise, cosine or one_cycle, got {self.shape!r}.")
        if not self.learning_rate > 0:
            raise InvalidInput(f"learning_rate must be above 0, got {self.learning_rate}.")

    def rate(self, progress: float) -> float:
        """Compute the learning rate.

        Args:
            progress: Share of all steps already done, [0, 1].
        """
        if self.shape == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        if self.shape == "one_cycle":
            return self.learning_rate * min(progress / 0.4, (1 - progress) / 0.6)
        decays = sum(progress * self.epochs >= epoch - 1e-9 for epoch in self.decay_epochs)
        return self.learning_rate * self.decay_factor**decays

    def make_optimiser(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Make a new optimiser at the highest learning rate.

        Args:
            parameters: The parameters to train.
        """
        rate, decay = self.learning_rate, self.weight_decay
        if self.optimiser == "adamw":
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
        return torch.optim.SGD(
            parameters, rate, self.momentum, weight_decay=decay, nesterov=self.nesterov
        )
