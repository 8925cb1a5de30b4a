"""Run the stages of a plan in this process, in order."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from equipoise.data import Split
from equipoise.distributed.ranks import Ranks
from equipoise.evaluation import images_hash
from equipoise.evaluation.random_draws import seeded
from equipoise.recipes import to_json
from equipoise.runtime.differences import differing_fields
from equipoise.runtime.errors import RunError, TrainingError
from equipoise.runtime.files import read_json, write_json
from equipoise.runtime.reporter import Reporter
from equipoise.runtime.run_folder import RunFolder
from equipoise.runtime.seeds import derive_seed
from equipoise.training import DONE, Trainer, TrainingConfig, fit, is_done, load_weights
from equipoise.training.stage import Stage
from equipoise.types import Predict

SETTINGS = "settings.json"
"""File in a stage's folder with what its files depend on."""


def execute(
    stages: Sequence[Stage],
    *,
    train: Split,
    loop: TrainingConfig,
    folder: Path,
    seed: int,
    fabric: Fabric,
    reporter: Reporter | None = None,
    last_epoch: bool = False,
) -> tuple[nn.Module, list[str]]:
    """Run all stages of a plan that are not done yet, in order.

    Args:
        stages: The plan; every stage comes after those it needs.
        train: Training part; validation images are held out of it.
        loop: Settings of the training loop.
        folder: Run folder; the files of stage ``x`` are in ``stages/x``.
        seed: Random seed of the run. Each stage derives its own seeds for weights, data order and
            attacks from it and the stage's name.
        fabric: Device, precision and processes, launched; every process calls this function.
        reporter: Receives progress and log messages.
        last_epoch: Load the weights of the last epoch, not the best, of a finished last stage.

    Returns:
        The outcome of the last stage in eval mode, and the names of the stages that were trained.

    Raises:
        TrainingError: If a stage cannot be trained.
        RunError: If the folder holds a stage with other settings.
        Interrupted: If the run was asked to stop; call again to continue.
    """
    facts = {"seed": seed, "images": images_hash(train)}
    training, validation = train.hold_out(
        loop.held_out(len(train)), derive_seed(seed, "validation")
    )
    outcomes: dict[str, nn.Module] = {}
    trained: list[str] = []
    for stage in stages:
        stage_folder = RunFolder(folder).stage(stage.name)
        with seeded(derive_seed(seed, stage.name, "weights")):
            task: Any = stage.build({name: outcomes[name] for name in stage.needs})
        if stage.trains:
            about = _settings(stage, task, loop, facts)
            Ranks(fabric).on_rank_zero(partial(_check_settings, stage_folder, about))
        if not stage.trains:
            task.to(fabric.device)
        elif Ranks(fabric).broadcast(is_done(stage_folder)):
            keep = "last" if last_epoch and stage is stages[-1] else stage.keep
            load_weights(task, stage_folder, keep)
            task.to(fabric.device)
        else:
            trainer = Trainer(stage, task, loop, fabric, derive_seed(seed, stage.name), reporter)
            fit(trainer, training, validation, stage_folder)
            trained.append(stage.name)
        outcomes[stage.name] = task.outcome()
    return outcomes[stages[-1].name].eval(), trained


def _settings(
    stage: Stage, task: nn.Module, loop: TrainingConfig, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What a stage's files depend on, as JSON values."""
    about = {
        **facts,
        "schedule": to_json(stage.schedule),
        "validation": list(stage.validation),
        "norm": stage.norm,
        "keep": stage.keep,
        "method": {name: _plain(value) for name, value in stage.settings.items()},
        "loop": to_json(loop),
        "tensors": {name: list(value.shape) for name, value in task.state_dict().items()},
    }
    values: dict[str, Any] = json.loads(json.dumps(about))  # with lists, as they are read
    return values


def _plain(value: Any) -> Any:
    """A setting as JSON values; one that has none, such as a user's own object, by its type."""
    try:
        return json.loads(json.dumps(to_json(value)))
    except (TypeError, ValueError):
        return f"{type(value).__module__}.{type(value).__qualname__}"


def _check_settings(folder: Path, about: dict[str, Any]) -> None:
    """Store the settings of a stage, or refuse a folder whose stage has others."""
    path = folder / SETTINGS
    stored = read_json(path) if path.exists() else None
    if stored is None and not folder.exists():
        write_json(path, about)
    changed = [] if stored is None else differing_fields(stored, about)
    if changed:
        listed = ", ".join(changed[:4]) + (", ..." if len(changed) > 4 else "")
        raise RunError(
            f"{folder} holds a stage that differs in {listed}; choose another folder, or delete it "
            "to train the stage again."
        )


def training_warnings(stages: Sequence[Stage], folder: Path) -> list[str]:
    """Warnings of all finished stages, for the card of their model.

    Args:
        stages: The plan.
        folder: The run folder.
    """
    files = {stage.name: RunFolder(folder).stage(stage.name) / DONE for stage in stages}
    return [
        f"stage {name}: {warning}"
        for name, file in files.items()
        if file.exists()
        for warning in read_json(file).get("warnings", [])
    ]


def keeps_its_last_epoch(stage: Stage, folder: Path) -> bool:
    """Return whether the kept weights of a finished stage are those of its last epoch.

    Args:
        stage: The stage.
        folder: The run folder.
    """
    if stage.keep == "last" or not stage.trains:
        return True
    summary = read_json(folder / "stages" / stage.name / DONE)
    return bool(summary["best_epoch"] + 1 == summary["epochs"])


def check_forward(stages: Sequence[Stage], train: Split) -> None:
    """Build every stage of a plan, untrained, and run its network on two images.

    A network that a later stage cannot use is thus refused before the first is trained.

    Args:
        stages: The plan.
        train: Training part.

    Raises:
        TrainingError: If the network fails on the images, or returns the wrong number of logits.
        ValueError: If a stage cannot be built.
    """
    outcomes: dict[str, nn.Module] = {}
    with seeded(0):
        for stage in stages:
            task: Any = stage.build({name: outcomes[name] for name in stage.needs})
            task.eval()
            name = f"the network of stage {stage.name!r}"
            check_initialised(task, name)
            check_answer(task.predictor(stage.validation[0]), train, name)
            if stage.trains:
                _check_trainable(task, stage.validation[0], train, name)
            outcomes[stage.name] = task.outcome()


def check_initialised(task: nn.Module, name: str) -> None:
    """Reject a network with lazy layers that have no weights yet.

    Args:
        task: The network, or a module that holds it.
        name: Its name in the error message.

    Raises:
        TrainingError: If there are such layers.

    Example:
        >>> check_initialised(nn.LazyLinear(2), "my network")
        Traceback (most recent call last):
        equipoise...TrainingError: my network has lazy layers without weights; call it on one ...
    """
    lazy = UninitializedParameter | UninitializedBuffer
    if any(isinstance(part, lazy) for part in (*task.parameters(), *task.buffers())):
        raise TrainingError(
            f"{name} has lazy layers without weights; call it on one batch before it is passed on."
        )


def _check_trainable(task: Any, strength: float, train: Split, name: str) -> None:
    """Reject a network whose logits no parameter can change."""
    if not any(parameter.requires_grad for parameter in task.parameters()):
        raise TrainingError(f"{name} has no parameter that can be trained.")
    with torch.enable_grad():
        trains = task.predictor(strength)(train.batch(slice(0, 2))[0]).requires_grad
    if not trains:
        raise TrainingError(
            f"the logits of {name} do not depend on its parameters as far as gradients tell; "
            "leave out no_grad, inference_mode and detach in its forward."
        )


def check_answer(predict: Predict, train: Split, name: str) -> None:
    """Check that a network fits the data, before any time is spent on it.

    Args:
        predict: Network in eval mode.
        train: Training part, of which two images are tried.
        name: Name of the network in the error message.

    Raises:
        TrainingError: If the network fails on the images, or returns the wrong number of logits.

    Example:
        >>> from equipoise.data import Split
        >>> pixels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
        >>> train = Split(images=pixels, labels=torch.tensor([0, 1]), classes=2)
        >>> check_answer(lambda images: images.new_zeros(len(images), 10), train, "my network")
        Traceback (most recent call last):
        equipoise.runtime.errors.TrainingError: my network must return 2 logits per image, ...
    """
    images, _ = train.batch(slice(0, 2))
    shape = tuple(images.shape[1:])
    try:
        with torch.no_grad():
            output_shape = tuple(predict(images).shape)
    except (RuntimeError, TypeError, ValueError) as error:  # a user's network may raise any
        raise TrainingError(f"{name} fails on images of shape {shape}: {error}") from error
    if output_shape != (len(images), train.classes):
        raise TrainingError(
            f"{name} must return {train.classes} logits per image, got shape {output_shape} for "
            f"{len(images)} images; build it for {train.classes} classes."
        )
