"""Run a plan's stages: here, in order, each one's result on disk before the next needs it."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch
from lightning_fabric import Fabric
from torch import nn

from equipoise.data import Split
from equipoise.distributed.ranks import Ranks
from equipoise.methods import Stage
from equipoise.runtime.errors import TrainingError
from equipoise.runtime.files import read_json
from equipoise.runtime.reporter import NullReporter, Reporter
from equipoise.runtime.seeds import derive_seed
from equipoise.training import DONE, Loop, fit, is_done, load_weights
from equipoise.types import Predict


def execute(
    stages: Sequence[Stage],
    *,
    train: Split,
    loop: Loop,
    folder: Path,
    seed: int,
    fabric: Fabric,
    reporter: Reporter | None = None,
    last_epoch: bool = False,
) -> tuple[nn.Module, list[str]]:
    """Run every stage of a plan that is not done yet, in order.

    Args:
        stages: The plan; a stage comes after those it needs.
        train: Training part; the validation images are held out of it by the seed.
        loop: How stages are run.
        folder: Of the run; stage ``x`` lives in ``stages/x``.
        seed: Of the run. Each stage draws weights and data order from a seed of its own, derived
            from this one and the stage's name.
        fabric: Device, precision and processes, launched; every process calls this.
        reporter: Who is told.
        last_epoch: Take the last stage, which is done, as its last epoch left it.

    Returns:
        The last stage's outcome in eval mode, and the names of the stages that ran now.

    Raises:
        TrainingError: If a stage cannot be trained.
        Interrupted: If the run was asked to stop; running again goes on.
    """
    reporter = reporter or NullReporter()
    kept, validation = train.hold_out(loop.validation_images, derive_seed(seed, "validation"))
    outcomes: dict[str, nn.Module] = {}
    ran: list[str] = []
    for stage in stages:
        place = folder / "stages" / stage.name
        with _fresh_weights(derive_seed(seed, stage.name, "weights")):
            task: Any = stage.build({name: outcomes[name] for name in stage.needs})
        if not stage.trains:
            task.to(fabric.device)
        elif Ranks(fabric).broadcast(is_done(place)):
            load_weights(task, place, "last" if last_epoch and stage is stages[-1] else stage.keep)
            task.to(fabric.device)
        else:
            fit(
                stage,
                task,
                train=kept,
                validation=validation,
                loop=loop,
                folder=place,
                fabric=fabric,
                seed=derive_seed(seed, stage.name),
                reporter=reporter,
            )
            ran.append(stage.name)
        outcomes[stage.name] = task.outcome()
    return outcomes[stages[-1].name].eval(), ran


def keeps_its_last_epoch(stage: Stage, folder: Path) -> bool:
    """Whether a stage of a finished run hands on what its last epoch left.

    Args:
        stage: The stage.
        folder: Of the run.
    """
    if stage.keep == "last" or not stage.trains:
        return True
    summary = read_json(folder / "stages" / stage.name / DONE)
    return bool(summary["best_epoch"] + 1 == summary["epochs"])


def check_forward(stage: Stage, train: Split) -> None:
    """Build a stage that needs no other and let it answer two images; nothing is kept.

    Args:
        stage: The first of a plan.
        train: Training part.

    Raises:
        TrainingError: If its network fails on the images, or answers with other classes.
        ValueError: If it cannot be built.
    """
    with _fresh_weights(0):
        task: Any = stage.build({})
        task.eval()
        check_answer(task.predictor(stage.validation[0]), train, f"the network of {stage.name}")


def check_answer(predict: Predict, train: Split, who: str) -> None:
    """Refuse a network that does not fit the data, before any time is spent on it.

    Args:
        predict: In eval mode.
        train: Two of its images are tried.
        who: What the refusal calls it.

    Raises:
        TrainingError: If it fails on the images, or answers with other classes.
    """
    images, _ = train.batch(slice(0, 2))
    shape = tuple(images.shape[1:])
    try:
        with torch.no_grad():
            found = tuple(predict(images).shape)
    except (RuntimeError, TypeError, ValueError) as error:  # whatever a network of others raises
        raise TrainingError(f"{who} fails on images of shape {shape}: {error}") from error
    if found != (len(images), train.classes):
        raise TrainingError(
            f"{who} must answer {train.classes} logits an image, got {found} for {len(images)} "
            "images; have it made for as many classes."
        )


@contextmanager
def _fresh_weights(seed: int) -> Iterator[None]:
    """Seed the global generators that ``nn.Module`` constructors draw from; put them back."""
    numpy_state, python_state = numpy.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        numpy.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            numpy.random.set_state(numpy_state)
            random.setstate(python_state)
