"""``StageRun``: the position of a stage's training, saved to checkpoints and resumed from them."""

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equipoise.distributed.ranks import seed_everything
from equipoise.runtime.errors import TrainingError
from equipoise.runtime.files import clear_temporaries
from equipoise.training import checkpoint
from equipoise.training.batches import TrainingBatches
from equipoise.training.trainer import StepResult, Trainer


@dataclass
class Position:
    """Position of training. All fields are stored in checkpoints under these names."""

    epoch: int = 0
    batch: int = 0  # next batch of the epoch
    best_score: float = -math.inf
    best_epoch: int = -1
    accuracy: dict[str, dict[str, float]] = field(default_factory=dict)  # of the best and last
    score: float = -math.inf
    seconds: float = 0.0
    processor_seconds: float = 0.0  # over all threads of this process
    terms: list[str] = field(default_factory=list)
    watched: dict[str, Any] = field(default_factory=dict)  # state of the TrainingMonitor


class StageRun:
    """One run of a stage: the trainer, its batches, and how far training has come.

    Args:
        trainer: Module, optimiser and weight average.
        batches: Batches of training images.
        folder: Folder of the stage, with its checkpoints.

    Attributes:
        position: Epoch, batch and scores.
        order: Order of the training images in the current epoch.
        sums: ``(2, terms)``, float64: sums of the loss terms over the current epoch, and the number
            of steps in which each was known.
    """

    def __init__(self, trainer: Trainer, batches: TrainingBatches, folder: Path) -> None:
        self.trainer, self.batches, self.folder = trainer, batches, folder
        self.ranks = trainer.ranks
        self.position = Position()
        self.order = torch.zeros(0, dtype=torch.long)
        self.sums = torch.zeros(0, dtype=torch.float64)
        self._started = self._saved = time.monotonic()
        self._processor_started = time.process_time()

    @property
    def steps_done(self) -> int:
        """Number of optimiser steps taken."""
        return self.position.epoch * self.batches.per_epoch + self.position.batch

    @property
    def total_steps(self) -> int:
        """Number of optimiser steps of the stage."""
        return self.batches.per_epoch * self.trainer.stage.schedule.epochs

    @property
    def progress(self) -> float:
        """Share of the stage's steps already done."""
        return self.steps_done / self.total_steps

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are trained."""
        return self.position.epoch == self.trainer.stage.schedule.epochs

    @property
    def is_mid_epoch(self) -> bool:
        """Whether the current epoch has batches left."""
        return self.position.batch < self.batches.per_epoch

    def begin_epoch(self) -> None:
        """Draw the order of the images and reset the sums."""
        self.order = self.batches.order(self.trainer.generator)
        self.sums = torch.zeros(0, dtype=torch.float64, device=self.trainer.fabric.device)
        self.position.terms = []

    def count(self, result: StepResult) -> None:
        """Add the loss terms of a step and move on to the next batch."""
        known = ~result.values.isnan()
        step = torch.stack([torch.where(known, result.values, 0.0), known.double()])
        self.sums = self.sums + step if self.position.terms else step
        self.position.terms = result.names
        self.position.batch += 1

    def update_seconds(self) -> None:
        """Set the position's seconds to the training time so far, over all resumed runs."""
        self.position.seconds = time.monotonic() - self._started
        self.position.processor_seconds = time.process_time() - self._processor_started

    def is_checkpoint_due(self) -> bool:
        """Return whether the last checkpoint is older than the configuration allows."""
        return time.monotonic() - self._saved > self.trainer.config.checkpoint_seconds

    def save(self) -> None:
        """Write a checkpoint, from which any number of processes can resume.

        Raises:
            TrainingError: If a weight is infinite or NaN.
            RunError: If the checkpoint cannot be written.
        """
        self.update_seconds()
        self.ranks.on_rank_zero(self._save)
        self._saved = time.monotonic()

    def _save(self) -> None:
        trainer = self.trainer
        tensors = {f"module.{k}": v for k, v in trainer.task.state_dict().items()}
        tensors |= trainer.average.state()
        for name, tensor in tensors.items():
            may_be_infinite = name.partition(".")[2] in trainer.average.nonfinite_buffers
            if not may_be_infinite and not tensor.isfinite().all():
                raise TrainingError(
                    f"{name} of stage {trainer.stage.name} contains infinities or NaN, so no "
                    f"checkpoint was written; earlier ones are kept in {self.folder}. "
                    f"{trainer.stage.remedy()}"
                )
        optimiser = checkpoint.optimiser_tensors(trainer.optimiser)
        tensors |= {f"optimiser.{k}": v for k, v in optimiser.items()}
        tensors |= {f"random.{k}": v for k, v in checkpoint.random_state().items()}
        tensors |= {"generator": trainer.generator.get_state()}
        tensors |= {"order": self.order, "sums": self.sums}
        state = asdict(self.position)
        state |= {"parts": trainer.parts, "stage": trainer.stage.name, "seed": trainer.seed}
        state |= {n: None for n in ("best_score", "score") if math.isinf(state[n])}
        checkpoint.save_checkpoint(self.folder, tensors, state)

    def resume(self) -> None:
        """Seed the global generators, then load the newest intact checkpoint if there is one.

        Raises:
            CheckpointError: If all checkpoints are damaged.
            TrainingError: If the checkpoint belongs to another stage, seed, network or kind of
                weight average, or processes see different checkpoints.
        """
        seed_everything(self.trainer.seed)
        self.ranks.on_rank_zero(lambda: clear_temporaries(self.folder))
        content = checkpoint.load_checkpoint(self.folder, self.trainer.reporter.log)
        if content is not None:
            self._load(*content)
        self.ranks.check_same(self.steps_done, self.folder)
        self._saved = time.monotonic()
        self._started = self._saved - self.position.seconds
        self._processor_started = time.process_time() - self.position.processor_seconds

    def _load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        trainer = self.trainer
        if state.pop("stage") != trainer.stage.name or state.pop("seed") != trainer.seed:
            raise TrainingError(
                f"the checkpoint in {self.folder} belongs to another stage or seed; choose another "
                "folder with --out, or delete it."
            )
        state |= {n: -math.inf for n in ("best_score", "score") if state[n] is None}
        trainer.parts = state.pop("parts")
        self.position = Position(**state)
        try:
            trainer.task.load_state_dict(_with_prefix(tensors, "module."))
        except RuntimeError as error:
            raise TrainingError(
                f"the checkpoint in {self.folder} does not fit this network: another recipe "
                "made it. Choose another folder with --out."
            ) from error
        try:
            trainer.average.load(tensors)
        except ValueError as error:
            raise TrainingError(
                f"the checkpoint in {self.folder} {error}. Choose another folder with --out."
            ) from error
        checkpoint.load_optimiser(trainer.optimiser, _with_prefix(tensors, "optimiser."))
        checkpoint.set_random_state(_with_prefix(tensors, "random."))
        trainer.generator.set_state(tensors["generator"])
        self.order = tensors["order"].to(trainer.fabric.device)
        self.sums = tensors["sums"].to(trainer.fabric.device)
        if self.position.terms and self.sums.ndim == 1:  # checkpoints before 2026-12 had sums alone
            self.sums = torch.stack([self.sums, torch.full_like(self.sums, self.position.batch)])


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
