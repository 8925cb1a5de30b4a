"""Train a network in memory on data in memory."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import torch
from rich.console import Console
from torch import nn

from equipoise.api.evaluation_settings import trusted_code
from equipoise.api.resume_checks import differences, set_failed_aside
from equipoise.attacks.threat import Norm
from equipoise.data import Augmentation, DataSet, Split, as_split, recognise
from equipoise.distributed.ranks import launched
from equipoise.evaluation import images_hash
from equipoise.evaluation.cache import weights_hash
from equipoise.execution.local import (
    check_forward,
    check_initialised,
    execute,
    training_warnings,
)
from equipoise.methods import AFS, AnyMethod
from equipoise.methods.afs import stack_networks
from equipoise.models import save
from equipoise.models.copied import copied
from equipoise.models.io.external import import_with_weights, split_weights
from equipoise.models.model_config import config_of
from equipoise.recipes import to_json
from equipoise.recipes.default_methods import default_method
from equipoise.runtime.errors import InvalidInput, RunError
from equipoise.runtime.files import LOCK, locked, write_json
from equipoise.runtime.progress import Terminal
from equipoise.runtime.reporter import Reporter
from equipoise.runtime.run_folder import RunFolder
from equipoise.runtime.trust import trusting
from equipoise.training import TrainingConfig
from equipoise.training.config import VALIDATION_SHARE
from equipoise.training.schedule import Schedule
from equipoise.training.stage import Stage

MOST_VALIDATION_IMAGES = 1000


class NetworkTraining(TypedDict, total=False):
    """Keyword arguments of ``train`` for a network in memory.

    Attributes:
        method: ``"pgd_at"``, another key of ``recipes.default_methods.METHODS``, or a method with
            your own settings, such as ``AFA(...)``, which brings its strengths and schedules.
        epsilon: Highest strength in pixel units.
        norm: Norm of the threat.
        epochs: Passes over the training images.
        learning_rate: Highest learning rate. The default suits a trained network as start; a fresh
            one takes 0.1 to 0.2.
        batch_size: Images per step.
        validation: Share of the images, in (0, 0.2], held out to choose the best epoch; at most
            1000 images.
        clean_budget: Clean validation accuracy that the kept weights may lose, such as 0.05, if the
            network is trained already.
        augmentation: Shifts and flips; none by default.
        loop: All settings of the training loop, in place of the four above.
        folder: Keep checkpoints here: the same call continues an interrupted run, and returns the
            model of a finished one. By default nothing is kept.
        seed: Random seed of order, attacks and new weights.
        reporter: Receives progress; by default the terminal or the notebook.
    """

    method: str | AnyMethod
    epsilon: float
    norm: Norm
    epochs: int
    learning_rate: float
    batch_size: int
    validation: float
    clean_budget: float
    augmentation: Augmentation
    loop: TrainingConfig
    folder: Path | str
    seed: int
    reporter: Reporter


def train_network(network: nn.Module | str, data: Any, settings: NetworkTraining) -> nn.Module:
    """Train a copy of a network, as ``train`` says.

    Args:
        network: The start: trained or fresh; or ``module:function``, which makes it, or
            ``module:function@FILE`` with a checkpoint.
        data: Labelled training images, as for ``as_split``, or the path of a data set.
        settings: See ``NetworkTraining``.

    Returns:
        The trained model in eval mode; the network itself is unchanged.
    """
    split = _training_split(data)
    start = _start(network)
    check_initialised(start, type(start).__name__)
    method = _method(settings)
    stages = method.stages(lambda: copied(start))
    return _run(stages, split, settings, {"method": to_json(method), "start": weights_hash(start)})


def stack(networks: Sequence[nn.Module], data: Any, **settings: Any) -> nn.Module:
    """Stack trained networks under a merger that is trained on attacked images (AFS).

    Args:
        networks: Two or more trained networks with the same number of classes. They are copied and
            stay as they are.
        data: Labelled training images, as for ``as_split``, or the path of a data set.
        settings: As for ``train``; ``alpha`` is the weight of the clean loss, [0, 1], 0.3 by
            default.

    Returns:
        The stack in eval mode.

    Raises:
        ValueError: If a network cannot be a member, or the settings do not fit.

    Source:
        AFS Sec. II-C, Eq. (5).

    Example:
        >>> import torch
        >>> def network():
        ...     return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        >>> images, labels = torch.rand(20, 1, 8, 8), torch.arange(20) % 2
        >>> from equipoise.runtime.reporter import NullReporter
        >>> quiet = {"epochs": 1, "reporter": NullReporter()}
        >>> model = stack([network(), network()], (images, labels), epsilon=0.1, **quiet)
        >>> model.sizes()
        [64, 64]
    """
    alpha = settings.pop("alpha", 0.3)
    known: NetworkTraining = settings  # type: ignore[assignment]
    method = _method({"method": "afs", **known})
    if not isinstance(method, AFS):
        raise InvalidInput(f"stack trains the merger of AFS, got method {method!r}; leave it out.")
    members = {f"network {n}": copied(part).eval() for n, part in enumerate(networks)}
    if len(members) < 2:
        raise InvalidInput(f"a stack needs two or more networks, got {len(members)}.")
    method = replace(method, alpha=alpha, budgets=(method.merger_epsilon,) * len(members))
    asked: Any = {key: known[key] for key in ("epochs", "learning_rate") if key in known}
    method = replace(method, merger_schedule=replace(method.merger_schedule, **asked))
    merger = method.merger_stage(lambda _: stack_networks(members))
    about = {"method": to_json(method), "start": [weights_hash(part) for part in members.values()]}
    return _run([merger], _training_split(data), known, about)


def _run(
    stages: Sequence[Stage], split: Split, settings: NetworkTraining, about: dict[str, Any]
) -> nn.Module:
    """Run a plan in the folder of the settings, or in one that is removed."""
    loop, seed = _loop(settings, len(split)), settings.get("seed", 0)
    with torch.inference_mode(False), torch.enable_grad():
        return _run_stages(stages, split, settings, about, loop, seed)


def _run_stages(
    stages: Sequence[Stage],
    split: Split,
    settings: NetworkTraining,
    about: dict[str, Any],
    loop: TrainingConfig,
    seed: int,
) -> nn.Module:
    check_forward(stages, split)
    about |= {"loop": to_json(loop), "seed": seed, "images": images_hash(split)}
    with _folder(settings.get("folder"), about) as folder, _reporter(settings) as reporter:
        reporter.log(loop.describe_images(len(split)))
        model, _ = execute(
            stages,
            train=split,
            loop=loop,
            folder=folder,
            seed=seed,
            fabric=launched(loop.precision, loop.batch_size),
            reporter=reporter,
        )
        if "folder" in settings:
            _save(model, folder, training_warnings(stages, folder))
    return model.eval()


def _save(model: nn.Module, folder: Path, warnings: list[str]) -> None:
    """Save the model beside its checkpoints, if a folder can say how to build it."""
    with contextlib.suppress(InvalidInput):
        config_of(model)
        card = {"name": folder.resolve().name} | ({"warnings": warnings} if warnings else {})
        save(model, RunFolder(folder).model, card)


def _training_split(data: Any) -> Split:
    if isinstance(data, str | Path):
        with trusting(*trusted_code({}, data)):  # the caller asked for it by name
            data = recognise(Path(data)).load()
    return data.train if isinstance(data, DataSet) else as_split(data)


def _start(network: nn.Module | str) -> nn.Module:
    if isinstance(network, str):
        with trusting(split_weights(network)[0]):  # the caller asked for this function by name
            return import_with_weights(network)
    return network


def _method(settings: NetworkTraining) -> AnyMethod:
    """The method that was passed, or the named one with default settings."""
    unknown = settings.keys() - NetworkTraining.__annotations__.keys()
    if unknown:
        raise InvalidInput(
            f"train takes no argument {', '.join(sorted(unknown))}; it takes "
            f"{', '.join(NetworkTraining.__annotations__)}."
        )
    method = settings.get("method", "pgd_at")
    if not isinstance(method, str):
        fixed = {"epsilon", "norm", "epochs", "learning_rate"} & settings.keys()
        if fixed:
            raise InvalidInput(
                f"{', '.join(sorted(fixed))} belong to the method {type(method).__name__}(...); "
                "set them there."
            )
        return method
    schedule = Schedule(
        epochs=settings.get("epochs", 10),
        learning_rate=settings.get("learning_rate", 0.05),
        shape="one_cycle",
    )
    return default_method(
        method,
        epsilon=settings.get("epsilon", 8 / 255),
        schedule=schedule,
        norm=settings.get("norm", "Linf"),
    )


def _loop(settings: NetworkTraining, images: int) -> TrainingConfig:
    if "loop" in settings:
        return settings["loop"]
    share = settings.get("validation", 0.1)
    if not 0 < share <= VALIDATION_SHARE:
        raise InvalidInput(f"validation must be a share in (0, {VALIDATION_SHARE}], got {share}.")
    held_out = min(MOST_VALIDATION_IMAGES, max(1, round(share * images)))
    return TrainingConfig(
        batch_size=min(settings.get("batch_size", 128), max(1, images - held_out)),
        validation_images=held_out,
        augmentation=settings.get("augmentation", Augmentation()),
        clean_budget=settings.get("clean_budget"),
        alarms=True,
    )


@contextlib.contextmanager
def _folder(folder: Path | str | None, about: dict[str, Any]) -> Iterator[Path]:
    """The folder of the run, locked; one that holds another run is refused."""
    if folder is None:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
        return
    path = RunFolder(Path(folder)).recipe
    with locked(Path(folder)):
        set_failed_aside(Path(folder))
        others = [
            child.name for child in Path(folder).iterdir() if child.name not in (LOCK, "failed")
        ]
        if others and not path.exists():
            raise RunError(f"{folder} exists and holds no run; name another folder.")
        changed = differences(Path(folder), about) if path.exists() else []
        if changed:
            raise RunError(
                f"{folder} holds another run (differs in {', '.join(changed)}); name another "
                "folder, or remove it."
            )
        write_json(path, about)
        yield Path(folder)


@contextlib.contextmanager
def _reporter(settings: NetworkTraining) -> Iterator[Reporter]:
    if "reporter" in settings:
        yield settings["reporter"]
        return
    with Terminal(Console()) as terminal:
        yield terminal
