"""``fit``: train one stage, from its first step or from a checkpoint.

A killed run resumes bit-identical on CPU: a checkpoint holds module, optimiser, position, data
order, running means, weight average and all random states.
"""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from equipoise.data import Split
from equipoise.distributed.ranks import check_shares
from equipoise.runtime.errors import TrainingError
from equipoise.runtime.files import write_json
from equipoise.runtime.malloc import keep_freed_memory
from equipoise.runtime.signals import Interrupted, stop_on_signals
from equipoise.training.batches import TrainingBatches
from equipoise.training.checkpoint import CURRENT
from equipoise.training.epoch_end import by_strength, describe_accuracy, end_epoch
from equipoise.training.metrics import metrics_log
from equipoise.training.monitors import at_chance
from equipoise.training.stage_files import DONE, FAILED, LAST, load_weights, write_weights
from equipoise.training.stage_run import StageRun
from equipoise.training.trainer import NonFiniteLossError, Trainer
from equipoise.training.validation import Validation


def fit(trainer: Trainer, train: Split, validation: Split, folder: Path) -> dict[str, Any]:
    """Train one stage, or resume it from a checkpoint in ``folder``.

    Args:
        trainer: The stage, its module and optimiser, untrained. All processes of its Fabric call
            this function and share each batch; only rank 0 writes files. Its seed also seeds
            torch's, NumPy's and Python's global generators, which third-party layers may use.
        train: Training images, without the validation images.
        validation: Held-out images that choose the best epoch.
        folder: Folder of the stage, for metrics, checkpoints, and best and last weights.

    Returns:
        The summary that is also written to ``done.json``. The trainer's task holds the
        weights that its stage keeps, averaged if the loop averages.

    Raises:
        DataError: If the loop's extra images cannot be used.
        TrainingError: If the loss is infinite or NaN, or memory does not suffice for two images;
            the last checkpoint is kept. A batch that does not fit is trained in parts.
        Interrupted: If SIGINT or SIGTERM was received; the run can be resumed.
        RunError: If a file cannot be written, or no checkpoint can be read.

    Example:
        >>> import tempfile, torch
        >>> from equipoise.distributed.ranks import launched
        >>> from equipoise.training import Trainer, TrainingConfig
        >>> from equipoise.training.schedule import Schedule
        >>> from equipoise.methods import SingleNetwork
        >>> from equipoise.objectives import Standard
        >>> labels = torch.tensor([0, 1] * 8)
        >>> pixels = (labels * 200).to(torch.uint8)[:, None, None, None].expand(16, 1, 4, 4)
        >>> images = Split(images=pixels.contiguous(), labels=labels, classes=2)
        >>> schedule = Schedule(epochs=1, learning_rate=0.1)
        >>> method = SingleNetwork(objective=Standard(), epsilon=0.0, schedule=schedule)
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
        >>> (stage,) = method.stages(lambda: network)
        >>> loop = TrainingConfig(batch_size=8)
        >>> fabric = launched(loop.precision, loop.batch_size, accelerator="cpu")
        >>> trainer = Trainer(stage, stage.build({}), loop, fabric, seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     summary = fit(trainer, train=images, validation=images, folder=Path(folder))
        ...     weights = sorted(path.name for path in Path(folder).glob("*.safetensors"))
        >>> summary["epochs"], weights
        (1, ['best.safetensors', 'checkpoint.safetensors', 'last.safetensors'])
    """
    keep_freed_memory()
    stage, config, device = trainer.stage, trainer.config, trainer.fabric.device
    batches = TrainingBatches(train.to(device), config)
    check_shares(batches.size, trainer.ranks.world)
    run = StageRun(trainer, batches, folder)
    validate = Validation(stage, validation.to(device), config, trainer.ranks, trainer.seed)
    run.resume()
    trainer.reporter.begin(stage.name, run.total_steps, run.steps_done)
    if config.clean_budget is not None and not run.position.accuracy:
        start = {"0": validate.clean(trainer.task)} | by_strength(validate(trainer.task))
        run.position.accuracy["start"] = start
        trainer.reporter.epoch(f"start, validation accuracy {describe_accuracy(start)}", last=True)
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        stack.enter_context(stop_on_signals(stop))
        stack.enter_context(run.ranks.synchronised(trainer.task, config.sync_batch_norm))
        metrics = metrics_log(folder, run.position.epoch)
        log = run.ranks.on_rank_zero(lambda: stack.enter_context(metrics))
        _train_epochs(run, validate, log, stop)
    summary = _finish(run, validate)
    if _stop_requested(run, stop):  # in the last epoch: this stage is finished, the plan is not
        raise Interrupted
    return summary


def _train_epochs(
    run: StageRun,
    validate: Validation,
    log: Callable[[dict[str, Any]], None] | None,
    stop: threading.Event,
) -> None:
    while not run.is_finished:
        if run.position.batch == 0:
            run.begin_epoch()
        while run.is_mid_epoch:
            _train_step(run)
            due, stopping = run.ranks.any(run.is_checkpoint_due(), stop.is_set())
            if (due or stopping) and run.is_mid_epoch:
                run.save()
            if stopping and run.is_mid_epoch:
                raise Interrupted
        end_epoch(run, validate, log)
        run.save()
        if _stop_requested(run, stop) and not run.is_finished:
            raise Interrupted


def _train_step(run: StageRun) -> None:
    trainer, position, step = run.trainer, run.position, run.steps_done
    images, labels = run.batches.batch(run.order, position.batch, trainer.generator)
    run.ranks.seed_step(trainer.seed, step)
    try:
        result = trainer.step(images, labels, run.progress)
    except NonFiniteLossError as error:
        where = f"the loss of stage {trainer.stage.name} became {error.loss} in epoch "
        where += f"{position.epoch}, step {step}."
        run.ranks.on_rank_zero(lambda: write_json(run.folder / FAILED, {"reason": where}))
        kept = (run.folder / CURRENT).exists()
        kept_in = f" Earlier checkpoints are kept in {run.folder}." if kept else ""
        again = "The same command with other settings, without --resume, starts a new run."
        raise TrainingError(f"{where}{kept_in} {error.remedy} {again}") from error
    is_last = position.batch == run.batches.per_epoch - 1
    if position.batch % 5 == 0 or is_last:
        best = f"  best {position.best_score:.3f}" if position.best_epoch >= 0 else ""
        text = f"epoch {position.epoch + 1}  loss {result.loss:.3f}{best}"
        trainer.reporter.step(step + 1, text)
    run.count(result)


def _stop_requested(run: StageRun, stop: threading.Event) -> bool:
    """Return whether any process was asked to stop."""
    (stopping,) = run.ranks.any(stop.is_set())
    return stopping


def _finish(run: StageRun, validate: Validation) -> dict[str, Any]:
    """Load the weights that the stage keeps, examine them, write last weights and summary."""
    trainer, position = run.trainer, run.position
    name = trainer.stage.name
    with trainer.average.applied():
        run.ranks.on_rank_zero(lambda: write_weights(trainer.task, run.folder, LAST, name))
    accuracy = position.accuracy.get(trainer.stage.keep, {})
    summary: dict[str, Any] = {
        "stage": name,
        "epochs": position.epoch,
        "best_epoch": position.best_epoch,
        "best_score": position.best_score,
        "last_score": position.score,
        "seconds": round(position.seconds, 2),
        "processor_seconds": round(position.processor_seconds, 2),
        "threads": torch.get_num_threads(),
        "validation": accuracy,
    }
    load_weights(trainer.task, run.folder, trainer.stage.keep)
    summary["warnings"] = _warnings(run, validate, accuracy)
    run.ranks.on_rank_zero(lambda: write_json(run.folder / DONE, summary))
    if accuracy:
        kept = position.best_epoch if trainer.stage.keep == "best" else position.epoch - 1
        trainer.reporter.epoch(
            f"kept epoch {kept + 1} of {position.epoch}, validation accuracy "
            f"{describe_accuracy(accuracy)}",
            last=True,
        )
    run.ranks.on_rank_zero(lambda: (run.folder / FAILED).unlink(missing_ok=True))
    for warning in summary["warnings"]:
        trainer.reporter.log(f"Warning: stage {name}: {warning}")
    return summary


def _warnings(run: StageRun, validate: Validation, accuracy: dict[str, float]) -> list[str]:
    """What is wrong with a trained stage although no step failed."""
    stage, split = run.trainer.stage, validate.split
    found = at_chance(accuracy, split.classes, len(split)) if accuracy else []
    start, budget = run.position.accuracy.get("start"), run.trainer.config.clean_budget
    if start and accuracy and budget is not None and accuracy["0"] < start["0"] - budget:
        found.append(
            "no epoch is within the budget: clean validation accuracy was "
            f"{100 * start['0']:.1f} % at the start, may fall by {100 * budget:.1f} points, and is "
            f"{100 * accuracy['0']:.1f} % at best. Lower epsilon or the learning rate, or train "
            "longer."
        )
    if stage.examine is not None:
        run.trainer.task.eval()
        found += stage.examine(run.trainer.task, split)
    return found
