"""The one training loop: ``fit`` runs a stage, whatever method it belongs to.

A killed run resumes to the same bits: a checkpoint holds the module, the optimiser, the position
in the epoch, the epoch's data order, running means and every random state.
"""

import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy
import torch
from lightning_fabric import Fabric

from equipoise import checkpoints, runs
from equipoise.attacks import PGD
from equipoise.data import Augmentation, Split
from equipoise.evaluation import robust_accuracy
from equipoise.methods.stage import THREATS, Schedule, Stage, Task
from equipoise.metrics import metrics_log
from equipoise.models import attack_mode
from equipoise.signals import Interrupted, stop_on_signals

BEST, LAST, DONE = "best.safetensors", "last.safetensors", "done.json"


class TrainingError(runs.RunError):
    """Training that cannot go on; the message says why and what to change."""


@dataclass(frozen=True, kw_only=True)
class Loop:
    """How stages are run, whatever they train.

    Args:
        batch_size: Images a step. AFA's stage I makes K times as many of them.
        validation_images: Held out of the training part; the best epoch is chosen on them.
        validation_steps: PGD steps of the validation attack, of epsilon / 4 each.
        validate_every: Epochs between validations; the last epoch always is one.
        augmentation: Shifts and flips of training images.
        precision: ``"bf16-mixed"`` runs networks under autocast; weights and scores stay float32.
        channels_last: Memory layout of networks and images.
        checkpoint_seconds: Longest time between checkpoints.
    """

    batch_size: int = 128
    validation_images: int = 1000
    validation_steps: int = 10
    validate_every: int = 1
    augmentation: Augmentation = Augmentation()
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    channels_last: bool = True
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "validation_steps", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}.")


@runtime_checkable
class Reporter(Protocol):
    """Who is told how training goes."""

    def begin(self, stage: str, steps: int, done: int) -> None:
        """A stage of so many steps begins, or goes on after ``done`` of them."""
        ...

    def step(self, done: int, text: str) -> None:
        """So many steps are done."""
        ...

    def say(self, text: str) -> None:
        """Something worth a line."""
        ...


class Silent:
    """A reporter that says nothing."""

    def begin(self, stage: str, steps: int, done: int) -> None:
        """Nothing."""

    def step(self, done: int, text: str) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


@dataclass
class _Position:
    """Where training stands; all of it is in a checkpoint."""

    epoch: int = 0
    batch: int = 0  # next batch of the epoch
    best_score: float = -math.inf
    best_epoch: int = -1
    score: float = -math.inf
    seconds: float = 0.0
    terms: list[str] = field(default_factory=list)


def fit(
    stage: Stage,
    task: Task,
    *,
    train: Split,
    validation: Split,
    loop: Loop,
    folder: Path,
    fabric: Fabric,
    seed: int,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Train one stage, or go on where a checkpoint in ``folder`` left off.

    Args:
        stage: Schedule, validation strengths, and which weights are kept.
        task: What is trained, as made by ``stage.build``.
        train: Training images, without the validation images.
        validation: Held out of training; chooses the best epoch.
        loop: How the loop runs.
        folder: Of this stage; gets metrics, checkpoints, ``best`` and ``last`` weights.
        fabric: Device and precision, launched.
        seed: Of this stage; it also seeds torch's, NumPy's and Python's global generators, which
            third-party layers may use.
        reporter: Who is told.

    Returns:
        The summary that is also in ``done.json``. ``task`` holds the weights ``stage.keep`` names.

    Raises:
        TrainingError: If the loss is no finite number; the last whole checkpoint is kept.
        Interrupted: If SIGINT or SIGTERM came; the run can be resumed.
        RunError: If a file cannot be written, or no checkpoint can be read.
    """
    return _Fit(stage, task, train, validation, loop, folder, fabric, seed, reporter).run()


class _Fit:
    def __init__(
        self,
        stage: Stage,
        task: Task,
        train: Split,
        validation: Split,
        loop: Loop,
        folder: Path,
        fabric: Fabric,
        seed: int,
        reporter: Reporter | None,
    ) -> None:
        self.stage, self.loop, self.folder, self.fabric = stage, loop, folder, fabric
        self.seed, self.reporter = seed, reporter or Silent()
        self.train, self.validation = train.to(fabric.device), validation.to(fabric.device)
        self.task: Any = cast(Any, task)  # an nn.Module too, which the protocol cannot say
        if loop.channels_last:
            self.task.to(memory_format=torch.channels_last)
        trained = [p for p in self.task.parameters() if p.requires_grad]
        self.optimiser: Any = _optimiser(trained, stage.schedule)
        self.wrapped, self.optimiser = fabric.setup(self.task, self.optimiser)
        self.batch_size = min(loop.batch_size, len(train))
        self.batches = len(train) // self.batch_size  # the incomplete last batch is dropped
        self.generator = torch.Generator(fabric.device).manual_seed(seed)
        self.order = torch.zeros(0, dtype=torch.long)
        self.sums = torch.zeros(0, dtype=torch.float64)
        self.at = _Position()
        self.stop = threading.Event()

    def run(self) -> dict[str, Any]:
        torch.manual_seed(self.seed)
        numpy.random.seed(self.seed % 2**32)
        random.seed(self.seed)
        runs.clear_temporaries(self.folder)
        self.resume()
        total = self.batches * self.stage.schedule.epochs
        self.reporter.begin(self.stage.name, total, self._steps_done())
        self._started = time.monotonic() - self.at.seconds
        saved = time.monotonic()
        with stop_on_signals(self.stop), metrics_log(self.folder, self.at.epoch) as log:
            while self.at.epoch < self.stage.schedule.epochs:
                if self.at.batch == 0:
                    self._new_order()
                while self.at.batch < self.batches:
                    self._step()
                    self.at.batch += 1
                    late = time.monotonic() - saved > self.loop.checkpoint_seconds
                    if (late or self.stop.is_set()) and self.at.batch < self.batches:
                        self.save()
                        saved = time.monotonic()
                    if self.stop.is_set() and self.at.batch < self.batches:
                        raise Interrupted
                self._end_epoch(log)
                self.save()
                saved = time.monotonic()
                if self.stop.is_set() and self.at.epoch < self.stage.schedule.epochs:
                    raise Interrupted
        summary = self._finish()
        if self.stop.is_set():  # in the last epoch: this stage is done, the run is not
            raise Interrupted
        return summary

    def _steps_done(self) -> int:
        return self.at.epoch * self.batches + self.at.batch

    def _new_order(self) -> None:
        self.order = torch.randperm(
            len(self.train), generator=self.generator, device=self.generator.device
        )
        self.sums = torch.zeros(0, dtype=torch.float64, device=self.fabric.device)
        self.at.terms = []

    def _step(self) -> None:
        progress = self._steps_done() / (self.batches * self.stage.schedule.epochs)
        rate = self.stage.schedule.rate(progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        first = self.at.batch * self.batch_size
        images, labels = self.train.batch(self.order[first : first + self.batch_size])
        images = self.loop.augmentation(images, self.generator)
        if self.loop.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        self.task.train()
        terms = self.wrapped(images, labels, self.generator, progress)
        self.optimiser.zero_grad()
        self.fabric.backward(terms["loss"])
        if self.stage.schedule.clip_norm is not None:
            self.fabric.clip_gradients(
                self.wrapped,
                self.optimiser,
                max_norm=self.stage.schedule.clip_norm,
                error_if_nonfinite=False,
            )
        values = torch.stack([term.detach().double() for term in terms.values()])
        if not bool(values[list(terms).index("loss")].isfinite()):
            raise TrainingError(
                f"the loss of stage {self.stage.name} became "
                f"{terms['loss'].item()} in epoch {self.at.epoch}, step {self._steps_done()}. "
                f"Earlier checkpoints are kept in {self.folder}. Lower the learning rate "
                f"(it was {rate:g}), set clip_norm, or train in 32-true precision."
            )
        self.optimiser.step()
        self.sums = values if not self.at.terms else self.sums + values
        self.at.terms = list(terms)
        if self.at.batch % 5 == 0 or self.at.batch == self.batches - 1:
            score = f"  best {self.at.best_score:.3f}" if self.at.best_epoch >= 0 else ""
            loss = f"loss {terms['loss'].item():.3f}"
            self.reporter.step(self._steps_done() + 1, f"epoch {self.at.epoch + 1}  {loss}{score}")

    def _end_epoch(self, log: Callable[[dict[str, Any]], None]) -> None:
        means = (self.sums / self.batches).tolist()
        entry: dict[str, Any] = {
            "epoch": self.at.epoch,
            "learning_rate": self.optimiser.param_groups[0]["lr"],
            "train": dict(zip(self.at.terms, means, strict=True)),
        }
        self.at.epoch += 1
        self.at.batch = 0
        last = self.at.epoch == self.stage.schedule.epochs
        if last or self.at.epoch % self.loop.validate_every == 0:
            scores = self._validate()
            entry["validation"] = {f"{epsilon:g}": score for epsilon, score in scores.items()}
            self.at.score = sum(scores.values()) / len(scores)
            entry["score"] = self.at.score
            if self.at.score > self.at.best_score:
                self.at.best_score, self.at.best_epoch = self.at.score, self.at.epoch - 1
                self._write_weights(BEST)
        self.at.seconds = time.monotonic() - self._started
        entry["seconds"] = round(self.at.seconds, 2)
        log(entry)

    def _validate(self) -> dict[float, float]:
        scores = {}
        # Its own generator: how often one validates must not change what is trained.
        search = PGD(steps=self.loop.validation_steps, relative_step=0.25, keep="best")
        self.task.eval()
        with attack_mode(self.task):
            for epsilon in self.stage.validation:
                generator = torch.Generator(self.fabric.device).manual_seed(self.seed)
                scores[epsilon] = robust_accuracy(
                    self.task.predictor(epsilon),
                    self.validation,
                    threat=THREATS[self.stage.norm](epsilon),
                    search=search,
                    generator=generator,
                    autocast=self.fabric.autocast,
                )
        return scores

    def save(self) -> None:
        """Write a checkpoint."""
        self.at.seconds = time.monotonic() - self._started
        tensors = {f"module.{k}": v for k, v in self.task.state_dict().items()}
        for name, tensor in tensors.items():
            if not bool(tensor.isfinite().all()):
                raise TrainingError(
                    f"{name} of stage {self.stage.name} is no finite number any more, so no "
                    f"checkpoint was written; earlier ones are kept in {self.folder}. Lower the "
                    "learning rate, set clip_norm, or train in 32-true precision."
                )
        tensors |= {
            f"optimiser.{k}": v for k, v in checkpoints.optimiser_tensors(self.optimiser).items()
        }
        tensors |= {f"random.{k}": v for k, v in checkpoints.random_state().items()}
        tensors |= {
            "generator": self.generator.get_state(),
            "order": self.order,
            "sums": self.sums,
        }
        state = asdict(self.at) | {"stage": self.stage.name, "seed": self.seed}
        for name in ("best_score", "score"):
            state[name] = None if math.isinf(state[name]) else state[name]
        checkpoints.save_checkpoint(self.folder, tensors, state)

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        found = checkpoints.load_checkpoint(self.folder, self.reporter.say)
        if found is None:
            return
        tensors, state = found
        if state.pop("stage") != self.stage.name or state.pop("seed") != self.seed:
            raise TrainingError(
                f"the checkpoint in {self.folder} belongs to another stage or seed; choose another "
                "folder with --out, or delete it."
            )
        for name in ("best_score", "score"):
            state[name] = -math.inf if state[name] is None else state[name]
        self.at = _Position(**state)
        parts = {
            head: {k.split(".", 1)[1]: v for k, v in tensors.items() if k.startswith(head + ".")}
            for head in ("module", "optimiser", "random")
        }
        try:
            self.task.load_state_dict(parts["module"])
        except RuntimeError as error:
            raise TrainingError(
                f"the checkpoint in {self.folder} does not fit this network: another recipe "
                "made it. Choose another folder with --out."
            ) from error
        checkpoints.load_optimiser(self.optimiser, parts["optimiser"])
        checkpoints.set_random_state(parts["random"])
        self.generator.set_state(tensors["generator"])
        self.order = tensors["order"].to(self.fabric.device)
        self.sums = tensors["sums"].to(self.fabric.device)

    def _write_weights(self, name: str) -> None:
        content = checkpoints.pack(self.task.state_dict(), {"stage": self.stage.name})
        runs.write_bytes(self.folder / name, content)

    def _finish(self) -> dict[str, Any]:
        self._write_weights(LAST)
        summary = {
            "stage": self.stage.name,
            "epochs": self.at.epoch,
            "best_epoch": self.at.best_epoch,
            "best_score": self.at.best_score,
            "last_score": self.at.score,
            "seconds": round(self.at.seconds, 2),
        }
        load_weights(self.task, self.folder, self.stage.keep)
        runs.write_json(self.folder / DONE, summary)
        return summary


def is_done(folder: Path) -> bool:
    """Whether a stage's folder holds a finished stage."""
    return (folder / DONE).exists()


def load_weights(task: Any, folder: Path, keep: Literal["best", "last"]) -> None:
    """Load a finished stage's weights into its task.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    try:
        tensors, _ = checkpoints.unpack(folder / (BEST if keep == "best" else LAST))
    except checkpoints.CheckpointError as error:
        raise checkpoints.CheckpointError(
            f"{error} To train this stage again, delete {folder}."
        ) from error
    task.load_state_dict(tensors)


def _optimiser(trained: list[torch.nn.Parameter], schedule: Schedule) -> torch.optim.Optimizer:
    rate, decay = schedule.learning_rate, schedule.weight_decay
    if schedule.optimiser == "adamw":
        return torch.optim.AdamW(trained, lr=rate, weight_decay=decay)
    momentum, nesterov = schedule.momentum, schedule.nesterov
    return torch.optim.SGD(trained, rate, momentum, weight_decay=decay, nesterov=nesterov)
