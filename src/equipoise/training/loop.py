"""``fit``: train one stage, from its first step or from a checkpoint on.

A killed run resumes, bit-identical on CPU: a checkpoint holds module, optimiser, position, data
order, running means, averages and every random state.
"""

import contextlib
import math
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric

from equipoise.data import Split
from equipoise.distributed.ranks import Ranks, check_shares, keep_inputs, seed_everything
from equipoise.distributed.shared_generator import share
from equipoise.methods.stage import Stage, Task
from equipoise.runtime.errors import TrainingError
from equipoise.runtime.files import clear_temporaries, write_json
from equipoise.runtime.malloc import keep_freed_memory
from equipoise.runtime.reporter import NullReporter, Reporter
from equipoise.runtime.signals import Interrupted, stop_on_signals
from equipoise.training import checkpoint
from equipoise.training.batches import Batches
from equipoise.training.config import Loop
from equipoise.training.metrics import metrics_log
from equipoise.training.micro_batches import Terms, in_parts
from equipoise.training.monitors import Watch
from equipoise.training.stage_files import BEST, DONE, LAST, load_weights, write_weights
from equipoise.training.validation import Validation
from equipoise.training.weight_averaging import Average
from equipoise.training.weight_perturbation import perturbed
from equipoise.types import Images, Labels

STATISTICS_BATCHES = 100  # over which norm statistics are measured


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
    watched: dict[str, Any] = field(default_factory=dict)  # what alarms remember
    parts: int = 1  # of each batch, since the memory did not suffice for the whole


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
        loop: How the loop runs, with its switches.
        folder: Of this stage; gets metrics, checkpoints, ``best`` and ``last`` weights.
        fabric: Device, precision and processes, launched. Where several processes train, all of
            them call this; the batch is shared among them, and rank 0 alone writes files.
        seed: Of this stage; it also seeds torch's, NumPy's and Python's global generators, which
            third-party layers may use.
        reporter: Who is told.

    Returns:
        The summary that is also in ``done.json``. ``task`` holds the weights ``stage.keep`` names:
        those of the average, where the loop averages.

    Raises:
        DataError: If the loop's extra images cannot be used.
        TrainingError: If the loss is no finite number, or memory does not suffice for two images;
            the last whole checkpoint is kept. A batch that does not fit is trained in parts.
        Interrupted: If SIGINT or SIGTERM came; the run can be resumed.
        RunError: If a file cannot be written, or no checkpoint can be read.
    """
    keep_freed_memory()
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
        self.ranks = Ranks(fabric)
        self.seed, self.reporter = (
            seed,
            (reporter if self.ranks.rank == 0 else None) or NullReporter(),
        )
        self.train, self.validation = train.to(fabric.device), validation.to(fabric.device)
        self.task: Any = cast(Any, task)  # an nn.Module too, which the protocol cannot say
        if loop.channels_last:
            self.task.to(memory_format=torch.channels_last)
        trained = [p for p in self.task.parameters() if p.requires_grad]
        self.optimiser: Any = stage.schedule.make_optimiser(trained)
        self.wrapped, self.optimiser = keep_inputs(fabric).setup(self.task, self.optimiser)
        self.source = Batches(self.train, loop)
        check_shares(self.source.own + self.source.drawn, self.ranks.world)
        self.batches = self.source.count
        self.average = Average(self.task, loop)
        self.generator = self.ranks.generator(seed)
        self.validate = Validation(stage, self.validation, loop, self.ranks, seed)
        self.order = torch.zeros(0, dtype=torch.long)
        self.sums = torch.zeros(0, dtype=torch.float64)
        self.at = _Position()
        self.stop = threading.Event()

    def run(self) -> dict[str, Any]:
        seed_everything(self.seed)
        self.ranks.on_rank_zero(lambda: clear_temporaries(self.folder))
        self.resume()
        self.ranks.check_same(self._steps_done(), self.folder)
        total = self.batches * self.stage.schedule.epochs
        self.reporter.begin(self.stage.name, total, self._steps_done())
        self._started = time.monotonic() - self.at.seconds
        saved = time.monotonic()
        with contextlib.ExitStack() as stack:
            stack.enter_context(stop_on_signals(self.stop))
            stack.enter_context(self.ranks.synchronised(self.task, self.loop.sync_batch_norm))
            opened = metrics_log(self.folder, self.at.epoch)
            self.log = self.ranks.on_rank_zero(lambda: stack.enter_context(opened))
            while self.at.epoch < self.stage.schedule.epochs:
                if self.at.batch == 0:
                    self._new_order()
                while self.at.batch < self.batches:
                    self._step()
                    self.at.batch += 1
                    late = time.monotonic() - saved > self.loop.checkpoint_seconds
                    late, asked = self.ranks.any(late, self.stop.is_set())
                    if (late or asked) and self.at.batch < self.batches:
                        self.save()
                        saved = time.monotonic()
                    if asked and self.at.batch < self.batches:
                        raise Interrupted
                self._end_epoch()
                self.save()
                saved = time.monotonic()
                (asked,) = self.ranks.any(self.stop.is_set())
                if asked and self.at.epoch < self.stage.schedule.epochs:
                    raise Interrupted
        summary = self._finish()
        (asked,) = self.ranks.any(self.stop.is_set())
        if asked:  # in the last epoch: this stage is done, the run is not
            raise Interrupted
        return summary

    def _steps_done(self) -> int:
        return self.at.epoch * self.batches + self.at.batch

    def _progress(self) -> float:
        return self._steps_done() / (self.batches * self.stage.schedule.epochs)

    def _new_order(self) -> None:
        self.order = self.source.order(self.generator)
        self.sums = torch.zeros(0, dtype=torch.float64, device=self.fabric.device)
        self.at.terms = []

    def _step(self) -> None:
        progress = self._progress()
        rate = self.stage.schedule.rate(progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        images, labels = self._batch(self.order, self.at.batch, self.generator)
        self.ranks.seed_step(self.seed, self._steps_done())
        self.task.train()
        terms = self._gradients(images, labels, progress)
        if self.stage.schedule.clip_norm is not None:
            self.fabric.clip_gradients(
                self.wrapped,
                self.optimiser,
                max_norm=self.stage.schedule.clip_norm,
                error_if_nonfinite=False,
            )
        values = torch.stack([term.detach().double() for term in terms.values()])
        values = self.ranks.sum(values) / self.ranks.world
        mean = float(values[list(terms).index("loss")])
        if not math.isfinite(mean):
            raise TrainingError(
                f"the loss of stage {self.stage.name} became {mean} in epoch "
                f"{self.at.epoch}, step {self._steps_done()}. "
                f"Earlier checkpoints are kept in {self.folder}. Lower the learning rate "
                f"(it was {rate:g}), set clip_norm, or train in 32-true precision."
            )
        self.optimiser.step()
        self.average.after_step(progress)
        self.sums = values if not self.at.terms else self.sums + values
        self.at.terms = list(terms)
        if self.at.batch % 5 == 0 or self.at.batch == self.batches - 1:
            score = f"  best {self.at.best_score:.3f}" if self.at.best_epoch >= 0 else ""
            text = f"epoch {self.at.epoch + 1}  loss {mean:.3f}{score}"
            self.reporter.step(self._steps_done() + 1, text)

    def _gradients(self, images: Images, labels: Labels, progress: float) -> Terms:
        def backward(images: Images, labels: Labels, share: float, first: bool) -> Terms:
            with self._perturbed(images, labels, progress):
                terms = self.wrapped(images, labels, self.generator, progress)
                if first:
                    self.optimiser.zero_grad()
                self.fabric.backward(terms["loss"] * share)
            return cast(Terms, terms)

        if self.ranks.world > 1:  # one rank cannot take its step in parts while others wait
            return backward(images, labels, 1.0, True)
        how = self.generator, self.reporter.log, getattr(self.task, "least_images", 0)
        terms, self.at.parts = in_parts(images, labels, self.at.parts, backward, *how)
        return terms

    def _batch(
        self, order: torch.Tensor, number: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """This rank's images of a batch; all of them are made here, so that all draws are alike."""
        images, labels = self.source.batch(order, number, generator)
        rows = torch.arange(len(labels), device=labels.device)
        own = share(rows, generator)
        return (images, labels) if own is rows else (images[own], labels[own])

    def _perturbed(
        self, images: torch.Tensor, labels: torch.Tensor, progress: float
    ) -> contextlib.AbstractContextManager[None]:
        if self.loop.awp_gamma == 0 or progress < self.loop.awp_start:
            return contextlib.nullcontext()

        def loss() -> torch.Tensor:
            with self.fabric.autocast():
                terms = self.task(images, labels, self.generator, progress)
            return cast(torch.Tensor, terms["loss"])

        return perturbed(self.task, self.loop.awp_gamma, self.generator, loss, self.ranks.sum)

    def _end_epoch(self) -> None:
        means = (self.sums / self.batches).tolist()
        entry: dict[str, Any] = {
            "epoch": self.at.epoch,
            "learning_rate": self.optimiser.param_groups[0]["lr"],
            "train": dict(zip(self.at.terms, means, strict=True)),
        }
        self.at.epoch += 1
        self.at.batch = 0
        last = self.at.epoch == self.stage.schedule.epochs
        self.average.after_epoch(self._progress())
        if last or self.at.epoch % self.loop.validate_every == 0:
            with self.average.in_place():
                self.average.measure_statistics(self._training_calls)
                self.ranks.share_buffers(self.task)
                self._judge(entry)
        self.at.seconds = time.monotonic() - self._started
        entry["seconds"] = round(self.at.seconds, 2)
        self.ranks.on_rank_zero(lambda: self.log and self.log(entry))

    def _judge(self, entry: dict[str, Any]) -> None:
        """Validate the weights in place and keep them if they are the best."""
        scores = self.validate(self.task)
        entry["validation"] = {f"{epsilon:g}": score for epsilon, score in scores.items()}
        self.at.score = sum(scores.values()) / len(scores)
        entry["score"] = self.at.score
        if self.loop.averaging != "none":
            entry["averaged"] = self.average.count
        if self.at.score > self.at.best_score:
            self.at.best_score, self.at.best_epoch = self.at.score, self.at.epoch - 1
            self._write(BEST)
        if self.loop.alarms:
            self._watch(scores, entry)

    def _watch(self, scores: dict[float, float], entry: dict[str, Any]) -> None:
        seen = self.validate.symptoms(self.task, scores)
        entry["fgsm"] = {f"{epsilon:g}": found.fgsm for epsilon, found in seen.items()}
        entry["largest_class"] = {f"{epsilon:g}": found.share for epsilon, found in seen.items()}
        watch = Watch(self.stage.name, self.at.watched)
        last = self.at.epoch == self.stage.schedule.epochs
        entry["alarms"] = watch.look(entry["epoch"], seen, best_epoch=self.at.best_epoch, last=last)
        for sentence in entry["alarms"]:
            self.reporter.log(sentence)

    def _training_calls(self) -> None:
        """The steps of a shuffled epoch, or its first hundred, without training anything."""
        # Not the generator of training: how often one validates must not change what is trained.
        generator, drawn = self.ranks.generator(self.seed), checkpoint.random_state()
        order = self.source.order(generator)
        for number in range(min(self.batches, STATISTICS_BATCHES)):
            images, labels = self._batch(order, number, generator)
            # Not under no_grad: an objective may take gradients of its own. Not the wrapped task:
            # a data-parallel one waits for a backward pass after each forward pass.
            before_last = (self._steps_done() - 1) / (self.batches * self.stage.schedule.epochs)
            halves = images.tensor_split(self.at.parts), labels.tensor_split(self.at.parts)
            with self.fabric.autocast():
                for part in zip(*halves, strict=True):
                    self.task(*part, generator, before_last)
        checkpoint.set_random_state(drawn)

    def save(self) -> None:
        """Write a checkpoint, which any number of processes can go on from."""
        self.at.seconds = time.monotonic() - self._started
        self.ranks.on_rank_zero(self._save)

    def _save(self) -> None:
        tensors = {f"module.{k}": v for k, v in self.task.state_dict().items()}
        tensors |= self.average.state()
        for name, tensor in tensors.items():
            if not tensor.isfinite().all() and name.partition(".")[2] not in self.average.endless:
                raise TrainingError(
                    f"{name} of stage {self.stage.name} is no finite number any more, so no "
                    f"checkpoint was written; earlier ones are kept in {self.folder}. Lower the "
                    "learning rate, set clip_norm, or train in 32-true precision."
                )
        tensors |= {
            f"optimiser.{k}": v for k, v in checkpoint.optimiser_tensors(self.optimiser).items()
        }
        tensors |= {f"random.{k}": v for k, v in checkpoint.random_state().items()}
        tensors |= {
            "generator": self.generator.get_state(),
            "order": self.order,
            "sums": self.sums,
        }
        state = asdict(self.at) | {"stage": self.stage.name, "seed": self.seed}
        state |= {n: None for n in ("best_score", "score") if math.isinf(state[n])}
        checkpoint.save_checkpoint(self.folder, tensors, state)

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        found = checkpoint.load_checkpoint(self.folder, self.reporter.log)
        if found is None:
            return
        tensors, state = found
        if state.pop("stage") != self.stage.name or state.pop("seed") != self.seed:
            raise TrainingError(
                f"the checkpoint in {self.folder} belongs to another stage or seed; choose another "
                "folder with --out, or delete it."
            )
        state |= {n: -math.inf for n in ("best_score", "score") if state[n] is None}
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
        try:
            self.average.load(tensors)
        except ValueError as error:
            raise TrainingError(
                f"the checkpoint in {self.folder} {error}. Choose another folder with --out."
            ) from error
        checkpoint.load_optimiser(self.optimiser, parts["optimiser"])
        checkpoint.set_random_state(parts["random"])
        self.generator.set_state(tensors["generator"])
        self.order = tensors["order"].to(self.fabric.device)
        self.sums = tensors["sums"].to(self.fabric.device)

    def _write(self, name: str) -> None:
        self.ranks.on_rank_zero(
            lambda: write_weights(self.task, self.folder, name, self.stage.name)
        )

    def _finish(self) -> dict[str, Any]:
        with self.average.in_place():
            self._write(LAST)
        summary = {
            "stage": self.stage.name,
            "epochs": self.at.epoch,
            "best_epoch": self.at.best_epoch,
            "best_score": self.at.best_score,
            "last_score": self.at.score,
            "seconds": round(self.at.seconds, 2),
        }
        load_weights(self.task, self.folder, self.stage.keep)
        self.ranks.on_rank_zero(lambda: write_json(self.folder / DONE, summary))
        return summary
