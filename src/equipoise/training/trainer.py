"""``Trainer``: the module, optimiser and weight average of a stage, and one optimiser step."""

import contextlib
import math
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from equipoise.distributed.ranks import Ranks, check_input_precision
from equipoise.runtime.errors import TrainingError
from equipoise.runtime.reporter import NullReporter, Reporter
from equipoise.training.config import TrainingConfig
from equipoise.training.micro_batches import (
    double_parts,
    first_line,
    is_out_of_memory,
    micro_batches,
    release_cached_memory,
)
from equipoise.training.stage import Stage, Task
from equipoise.training.weight_averaging import WeightAverage
from equipoise.training.weight_perturbation import perturbed_weights
from equipoise.types import Images, Labels

LossTerms = dict[str, Tensor]
"""Each term times its share of the batch, and the share in which it is known; float64, ``(2,)``."""


class NonFiniteLossError(TrainingError):
    """The loss of a step is infinite or NaN; no weight was changed.

    Args:
        loss: The loss.
        remedy: What helps.
    """

    def __init__(self, loss: float, remedy: str) -> None:
        self.loss, self.remedy = loss, remedy
        super().__init__(f"the loss became {loss}. {remedy}")


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Loss terms of one step, averaged over the batch of all processes.

    Args:
        loss: The minimised loss.
        names: Names of all terms.
        values: ``(terms,)``, float64, in the same order; NaN for a term that is unknown, such as
            a mean over clean images where the batch has none.
    """

    loss: float
    names: list[str]
    values: Tensor


class Trainer:
    """Takes optimiser steps for one stage.

    Args:
        stage: Its schedule sets the optimiser and the learning rate.
        task: The trained module, as built by ``stage.build``; moved to Fabric's device.
        config: Settings of the training loop; the stage's schedule may set another batch size.
        fabric: Device, precision and processes, launched.
        seed: Random seed of the stage.
        reporter: Receives progress and log messages of rank 0.

    Attributes:
        average: Average of the weights, if ``config`` asks for one.
        generator: Source of all random numbers of a step.
        parts: Parts in which each batch is trained; more than 1 after memory ran out.

    Example:
        >>> from equipoise.distributed.ranks import launched
        >>> from equipoise.training.schedule import Schedule
        >>> from equipoise.methods import SingleNetwork
        >>> from equipoise.objectives import Standard
        >>> schedule = Schedule(epochs=1, learning_rate=0.1)
        >>> method = SingleNetwork(objective=Standard(), epsilon=0.0, schedule=schedule)
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> (stage,) = method.stages(lambda: network)
        >>> config = TrainingConfig(batch_size=8)
        >>> fabric = launched(config.precision, config.batch_size, accelerator="cpu")
        >>> trainer = Trainer(stage, stage.build({}), config, fabric, seed=0)
        >>> images, labels = torch.rand(8, 1, 2, 2), torch.tensor([0, 1] * 4)
        >>> first = trainer.step(images, labels, progress=0.0)
        >>> trainer.step(images, labels, progress=0.5).loss < first.loss
        True
    """

    def __init__(
        self,
        stage: Stage,
        task: Task,
        config: TrainingConfig,
        fabric: Fabric,
        seed: int,
        reporter: Reporter | None = None,
    ) -> None:
        check_input_precision(fabric)
        if stage.schedule.batch_size is not None:
            config = replace(config, batch_size=stage.schedule.batch_size)
        self.stage, self.config, self.fabric, self.seed = stage, config, fabric, seed
        self.ranks = Ranks(fabric)
        self.reporter = (reporter if self.ranks.rank == 0 else None) or NullReporter()
        self.task: Any = cast(Any, task)  # also an nn.Module, which the protocol cannot express
        if config.channels_last:
            self.task.to(memory_format=torch.channels_last)
        trained = [p for p in self.task.parameters() if p.requires_grad]
        self.optimiser: Any = stage.schedule.make_optimiser(trained)
        self.wrapped, self.optimiser = fabric.setup(self.task, self.optimiser)
        self.average = WeightAverage(self.task, config)
        self.generator = self.ranks.generator(seed)
        self.parts = 1

    def step(self, images: Images, labels: Labels, progress: float) -> StepResult:
        """Take one optimiser step.

        Args:
            images: This process's images of the batch, in [0, 1].
            labels: Their classes.
            progress: Share of the stage's steps already done, [0, 1).

        Returns:
            The loss terms.

        Raises:
            NonFiniteLossError: If the loss is infinite or NaN.
            TrainingError: If memory does not suffice for two images.
        """
        rate = self.stage.schedule.rate(progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.task.train()
        terms = self._gradients(images, labels, progress)
        if self.stage.schedule.clip_norm is not None:
            self.fabric.clip_gradients(
                self.wrapped,
                self.optimiser,
                max_norm=self.stage.schedule.clip_norm,
                error_if_nonfinite=False,
            )
        total, known = (self.ranks.sum(torch.stack([*terms.values()])) / self.ranks.world).unbind(1)
        names, values = list(terms), total / known
        loss = float(values[names.index("loss")])
        if not math.isfinite(loss):
            raise NonFiniteLossError(loss, self.stage.remedy(rate))
        self.optimiser.step()
        self.average.after_step(progress)
        return StepResult(loss=loss, names=names, values=values)

    def _gradients(self, images: Images, labels: Labels, progress: float) -> LossTerms:
        """Compute the gradients of a batch, in twice as many parts whenever memory runs out.

        A failed attempt is repeated with the same random draws. Running statistics of norms have
        then seen some of its images twice.
        """
        while True:
            state = self.generator.get_state()
            try:
                return self._accumulate_gradients(images, labels, progress)
            except (MemoryError, RuntimeError) as error:
                # One rank cannot split its step while the others wait.
                if self.ranks.world > 1 or not is_out_of_memory(error):
                    raise
                message = first_line(error)
            release_cached_memory()
            self.generator.set_state(state)
            least = getattr(self.task, "least_images", 0)
            self.parts = double_parts(self.parts, len(images), least, message)
            self.reporter.log(
                f"out of memory: from now on, each batch of {len(images)} is trained in "
                f"{self.parts} parts with accumulated gradients. Batch norms see "
                f"{len(images) // self.parts} images at a time, and steps take longer."
            )

    def _accumulate_gradients(self, images: Images, labels: Labels, progress: float) -> LossTerms:
        total: LossTerms = {}
        self.optimiser.zero_grad()
        parts = self.parts if self.ranks.world == 1 else 1
        for part, part_labels in micro_batches(images, labels, parts):
            share = len(part) / len(images)
            with self._weight_perturbation(part, part_labels, progress):
                # The method's task: NetworkTask for one network, in methods/single_network.py.
                terms = self.wrapped(part, part_labels, self.generator, progress)
                self.fabric.backward(terms["loss"] * share)
            for name, term in terms.items():
                total[name] = total.get(name, 0) + _known_part(name, term, share)
        return total

    def _weight_perturbation(
        self, images: Images, labels: Labels, progress: float
    ) -> contextlib.AbstractContextManager[None]:
        if self.config.awp_gamma == 0 or progress < self.config.awp_start:
            return contextlib.nullcontext()

        def loss() -> Tensor:
            with self.fabric.autocast():
                terms = self.task(images, labels, self.generator, progress)
            return cast(Tensor, terms["loss"])

        return perturbed_weights(
            self.task, self.config.awp_gamma, self.generator, loss, self.ranks.sum
        )


def _known_part(name: str, term: Tensor, share: float) -> Tensor:
    """Weight a term; a NaN is unknown and counts nowhere, except in the loss, where it is a NaN."""
    value = term.detach().double()
    known = torch.ones_like(value) if name == "loss" else 1 - value.isnan().double()
    return share * torch.stack([torch.where(known.bool(), value, 0.0), known])
