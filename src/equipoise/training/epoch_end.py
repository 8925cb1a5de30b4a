"""The end of an epoch: average, validate, keep the best weights, raise alarms, log."""

from collections.abc import Callable, Mapping
from typing import Any

from equipoise.records.epsilon import format_epsilon
from equipoise.training import checkpoint
from equipoise.training.micro_batches import micro_batches
from equipoise.training.monitors import TrainingMonitor
from equipoise.training.stage_files import BEST, write_weights
from equipoise.training.stage_run import Position, StageRun
from equipoise.training.validation import Validation

STATISTICS_BATCHES = 100
"""Batches over which running statistics are measured for a mean of weights."""
Entry = dict[str, Any]


def end_epoch(run: StageRun, validate: Validation, log: Callable[[Entry], None] | None) -> None:
    """Finish an epoch after its last step.

    Args:
        run: The run; its position moves to the next epoch.
        validate: Measures the accuracy at each strength.
        log: Writes the entry of the epoch; called on rank 0.
    """
    trainer, position = run.trainer, run.position
    # A term that is known in no step of the epoch is left out.
    means = {
        name: float(total / known)
        for name, total, known in zip(position.terms, *run.sums, strict=True)
        if known
    }
    entry: Entry = {
        "epoch": position.epoch,
        "learning_rate": trainer.optimiser.param_groups[0]["lr"],
        "train": means,
    }
    position.epoch += 1
    position.batch = 0
    trainer.average.after_epoch(run.progress)
    if run.is_finished or position.epoch % trainer.config.validate_every == 0:
        with trainer.average.applied():
            trainer.average.measure_statistics(lambda: _forward_training_batches(run))
            run.ranks.share_buffers(trainer.task)
            _validate(run, validate, entry)
    run.update_seconds()
    entry["seconds"] = round(position.seconds, 2)
    trainer.reporter.epoch(_epoch_line(entry, trainer.stage.schedule.epochs), entry=entry)
    run.ranks.on_rank_zero(lambda: log and log(entry))


def _validate(run: StageRun, validate: Validation, entry: Entry) -> None:
    """Validate the current weights and keep them if they are the best."""
    trainer, position = run.trainer, run.position
    accuracy = validate(trainer.task)
    entry["validation"] = by_strength(accuracy)
    if 0.0 not in accuracy:
        entry["clean"] = validate.clean(trainer.task)
    with_clean = _with_clean(entry)
    position.accuracy["last"] = with_clean
    position.score = entry["score"] = sum(accuracy.values()) / len(accuracy)
    if trainer.config.averaging != "none":
        entry["averaged"] = trainer.average.count
    budget = trainer.config.clean_budget
    if _is_better(position, budget, with_clean["0"], position.score):
        position.best_score, position.best_epoch = position.score, position.epoch - 1
        position.accuracy["best"] = with_clean
        run.ranks.on_rank_zero(
            lambda: write_weights(trainer.task, run.folder, BEST, trainer.stage.name)
        )
    if trainer.config.alarms:
        _raise_alarms(run, validate, accuracy, entry)


def _is_better(position: Position, budget: float | None, clean: float, score: float) -> bool:
    """Whether weights are better than the best so far: within the budget first, then robust."""
    if budget is not None and position.best_epoch >= 0:
        before = position.accuracy["best"]["0"]
        if min(before, clean) < position.accuracy["start"]["0"] - budget:
            return clean > before
    return score > position.best_score


def _raise_alarms(
    run: StageRun, validate: Validation, accuracy: dict[float, float], entry: Entry
) -> None:
    trainer, position = run.trainer, run.position
    diagnostics = validate.diagnose(trainer.task, accuracy)
    entry["fgsm"] = by_strength({e: found.fgsm for e, found in diagnostics.items()})
    shares = {epsilon: found.predicted_share for epsilon, found in diagnostics.items()}
    entry["largest_class"] = by_strength(shares)
    monitor = TrainingMonitor(trainer.stage.name, position.watched)
    entry["alarms"] = monitor.check(
        entry["epoch"], diagnostics, best_epoch=position.best_epoch, last=run.is_finished
    )
    for alarm in entry["alarms"]:
        trainer.reporter.log(alarm)


def _epoch_line(entry: Entry, epochs: int) -> str:
    parts = [f"epoch {entry['epoch'] + 1} of {epochs}"]
    if "loss" in entry["train"]:
        parts.append(f"loss {entry['train']['loss']:.3f}")
    if "validation" in entry:
        parts.append(f"validation {describe_accuracy(_with_clean(entry))}")
    return ", ".join(parts)


def _with_clean(entry: Entry) -> dict[str, float]:
    clean = {"0": entry["clean"]} if "clean" in entry else {}
    return clean | entry["validation"]


def describe_accuracy(accuracy: Mapping[str, float]) -> str:
    """Accuracies by strength in words.

    Example:
        >>> describe_accuracy({"0": 0.712, "0.0313725": 0.354})
        'clean 71.2 %, 8/255 35.4 %'
    """
    names = {key: "clean" if float(key) == 0 else _strength(float(key)) for key in accuracy}
    return ", ".join(f"{names[key]} {100 * value:.1f} %" for key, value in accuracy.items())


def _strength(value: float) -> str:
    """A strength as people write it; keys of an entry have six digits of it."""
    level = round(255 * value)
    return format_epsilon(level / 255 if abs(value - level / 255) < 1e-6 else value)


def by_strength(values: Mapping[float, float]) -> dict[str, float]:
    """Accuracies under their strengths as JSON has them.

    Example:
        >>> by_strength({0.0: 0.9, 8 / 255: 0.4})
        {'0': 0.9, '0.0313725': 0.4}
    """
    return {f"{epsilon:g}": value for epsilon, value in values.items()}


def _forward_training_batches(run: StageRun) -> None:
    """Call the task as the steps of a shuffled epoch do, or its first hundred, without training."""
    trainer = run.trainer
    # A separate generator: the frequency of validation must not change the trained weights.
    generator, random_state = run.ranks.generator(trainer.seed), checkpoint.random_state()
    order = run.batches.order(generator)
    progress = (run.steps_done - 1) / run.total_steps  # of the last step
    for number in range(min(run.batches.per_epoch, STATISTICS_BATCHES)):
        images, labels = run.batches.batch(order, number, generator)
        # Not under no_grad: an objective may take gradients of its own. Not the wrapped task: a
        # data-parallel one waits for a backward pass after each forward pass.
        with trainer.fabric.autocast():
            for part_images, part_labels in micro_batches(images, labels, trainer.parts):
                trainer.task(part_images, part_labels, generator, progress)
    checkpoint.set_random_state(random_state)
