"""Train a recipe into a run folder."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast, overload

from lightning_fabric import Fabric
from torch import nn

from equipoise.api.resume_checks import check_same_data, claimed
from equipoise.api.stacking import card_of
from equipoise.api.train_network import NetworkTraining, train_network
from equipoise.data import DataSet
from equipoise.deployment.publish import write_card
from equipoise.distributed.ranks import Ranks, launched
from equipoise.execution.local import (
    check_answer,
    check_forward,
    execute,
    keeps_its_last_epoch,
    training_warnings,
)
from equipoise.methods import AFS
from equipoise.methods.afs import load_extractor
from equipoise.models import FeatureExtractor, save
from equipoise.models.io.validate_card import check_card
from equipoise.recipes import RECIPES, Recipe, from_json, to_json
from equipoise.runtime.environment import commit, environment
from equipoise.runtime.errors import InvalidInput, RunError
from equipoise.runtime.files import read_json, write_json
from equipoise.runtime.reporter import NullReporter, Reporter
from equipoise.runtime.run_folder import RunFolder
from equipoise.runtime.trust import Trusted, call_trusted_function, names_function, trusting
from equipoise.training.stage import Stage


def find_recipe(name: str) -> Recipe:
    """A recipe by its name, from a function of your own, or the one that a run has stored.

    Args:
        name: A name from ``equipoise list``, ``module:function`` (it is called: name only what you
            trust), a ``recipe.json``, or a run folder.

    Returns:
        The recipe.

    Raises:
        ValueError: If there is no such recipe, in which case the message names similar ones, or
            the function returns anything else.
        RunError: If the file cannot be read, or the function not be imported.

    Example:
        >>> recipe = find_recipe("pgd_at_digits")
        >>> recipe.method.epsilon
        0.2
    """
    if name in RECIPES:
        return RECIPES[name]()
    path = Path(name)
    if names_function(name) and not path.exists():
        with trusting(name):  # the caller asked for this function by name
            made = call_trusted_function(name, {})
        if not isinstance(made, Recipe):
            raise InvalidInput(f"{name} must return a Recipe, got {type(made).__name__}.")
        return made
    if RunFolder(path).recipe.is_file():
        path = RunFolder(path).recipe
    if path.is_file():
        try:
            recipe: Recipe = from_json(read_json(path))
        except ValueError as error:
            raise RunError(f"{path} is {error}") from error
        return recipe
    import difflib

    similar = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.5)
    remedy = f"Did you mean {' or '.join(similar)}?" if similar else "See `equipoise list`."
    raise InvalidInput(f"there is no recipe or recipe file {name!r}. {remedy}")


class RecipeTraining(TypedDict, total=False):
    """Keyword arguments of ``train`` for a recipe.

    Attributes:
        resume: Continue in a folder that already holds this recipe's run.
        trust: Code that may run because the recipe, or a model it stacks, names it: modules,
            ``module:function``, or the functions themselves.
        reporter: Receives progress and log messages; by default nothing does.
        dataset: The recipe's data set, if it is already loaded.
        fabric: Fabric of several processes that train together, from ``launched``; every process
            calls ``train``. By default this process trains alone.
        elsewhere: Trains the stages in place of this process, such as a
            ``execution.ray_cluster.RayExecutor``.
    """

    resume: bool
    trust: Sequence[Trusted]
    reporter: Reporter | None
    dataset: DataSet | None
    fabric: Fabric | None
    elsewhere: Callable[[Recipe, Path], None] | None


@overload
def train(what: Recipe, where: Path, **settings: Unpack[RecipeTraining]) -> nn.Module: ...


@overload
def train(what: nn.Module | str, where: Any, **settings: Unpack[NetworkTraining]) -> nn.Module: ...


def train(what: Any, where: Any, **settings: Any) -> nn.Module:
    """Train a network on data, or a recipe into a run folder.

    Args:
        what: A network, trained or fresh, of which a copy is trained; or a ``Recipe``.
        where: For a network, labelled images: ``(images, labels)`` as tensors or arrays, a
            ``torch`` ``Dataset`` or ``DataLoader``, a ``datasets.Dataset``, a ``Split`` or a
            ``DataSet``; see ``data.as_split``. For a recipe, its run folder.
        settings: For a network see ``NetworkTraining``: ``method``, ``epsilon``, ``epochs``, ...
            For a recipe see ``RecipeTraining``: ``resume``, ``reporter``, ...

    Returns:
        The trained model in eval mode; that of a recipe is also saved in ``model`` in its folder.

    Raises:
        RunError: If the folder is not empty and ``resume`` is not set, holds the run of another
            recipe or other data, is in use, or the recipe needs code that is not trusted.
        ValueError: If a setting is out of range, or the recipe's name or a class name is not
            allowed in a model card.
        DataError: If the data cannot be read.
        TrainingError: If a stage cannot be trained, or a network does not fit the data.
        Interrupted: If the run was asked to stop.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        >>> images, labels = torch.rand(20, 1, 8, 8), torch.arange(20) % 2
        >>> quiet = {"epochs": 1, "reporter": NullReporter()}
        >>> hardened = train(network, (images, labels), method="trades", epsilon=0.1, **quiet)
        >>> hardened(images).shape
        torch.Size([20, 2])
    """
    if isinstance(what, Recipe):
        return _train_recipe(what, where, **settings)
    if not isinstance(what, nn.Module | str):
        raise InvalidInput(
            "train takes a Recipe and a folder, or a network and data; the network must be an "
            f"nn.Module or module:function, got {type(what).__name__}."
        )
    return train_network(what, where, cast(NetworkTraining, settings))


def _train_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    trust: Sequence[Trusted] = (),
    reporter: Reporter | None = None,
    dataset: DataSet | None = None,
    fabric: Fabric | None = None,
    elsewhere: Callable[[Recipe, Path], None] | None = None,
) -> nn.Module:
    """Train a recipe into a run folder, and continue from what an earlier run left there."""
    reporter = reporter or NullReporter()
    with trusting(*trust), contextlib.ExitStack() as stack:
        fabric = fabric or launched(recipe.loop.precision, recipe.loop.batch_size)
        ranks, content = Ranks(fabric), to_json(recipe)
        ranks.on_rank_zero(lambda: stack.enter_context(claimed(folder, content, resume)))
        # The first process loads the data before the others: it may write a file that they read.
        dataset = dataset or ranks.on_rank_zero(recipe.dataset.load) or recipe.dataset.load()
        stages = _prepare(recipe, folder, dataset, ranks, reporter)
        if elsewhere is not None:
            elsewhere(recipe, folder)
        run_stages = partial(
            execute,
            stages,
            train=dataset.train,
            loop=recipe.loop,
            folder=folder,
            seed=recipe.seed,
            fabric=fabric,
            reporter=reporter,
        )
        model, ran = run_stages()
        warnings = training_warnings(stages, folder)
        save_model = partial(_save, recipe, dataset, warnings, changed=bool(ran or elsewhere))
        run = RunFolder(folder)
        if not keeps_its_last_epoch(stages[-1], folder):
            last, _ = run_stages(last_epoch=True)
            ranks.on_rank_zero(lambda: save_model(last, run.last, f"{recipe.name}_last"))
        ranks.on_rank_zero(lambda: save_model(model, run.model, recipe.name))
    return model.eval()


def _prepare(
    recipe: Recipe, folder: Path, dataset: DataSet, ranks: Ranks, reporter: Reporter
) -> list[Stage]:
    """Check that recipe, folder and data fit, describe the run in its folder, and plan it."""
    check_card({"name": recipe.name, "classes": list(dataset.class_names)})
    images = recipe.loop.describe_images(len(dataset.train))
    if ranks.rank == 0:
        reporter.log(dataset.summary())
        reporter.log(images)
    stages = recipe.method.stages(recipe.network.maker(dataset))
    _check_networks(recipe, stages, dataset, reporter)
    about = environment() | {"processes": ranks.world, "data_digest": dataset.digest()}
    check_same_data(folder, about["data_digest"])
    run = RunFolder(folder)
    ranks.on_rank_zero(lambda: write_json(run.recipe, to_json(recipe)))
    ranks.on_rank_zero(lambda: write_json(run.environment, about))
    return stages


def _save(
    recipe: Recipe,
    dataset: DataSet,
    warnings: list[str],
    model: nn.Module,
    folder: Path,
    name: str,
    *,
    changed: bool,
) -> None:
    if changed or not (folder / "config.json").exists():  # config.json is written last
        content = to_json(recipe)
        card = {
            "name": name,
            "data": dataset.name,
            "classes": list(dataset.class_names),
            "image_shape": list(dataset.image_shape),
            "data_digest": dataset.digest(),
            "dataset": content["dataset"],
            "evaluation": content["evaluation"],
            "training": {name: content[name] for name in ("network", "method", "loop")},
            "seed": recipe.seed,
            "validation_images": recipe.loop.held_out(len(dataset.train)),
            "commit": commit(),
        } | ({"warnings": warnings} if warnings else {})
        save(model, folder, card)
        write_card(folder)


def _check_networks(
    recipe: Recipe, stages: Sequence[Stage], dataset: DataSet, reporter: Reporter
) -> None:
    """Reject networks that do not fit the data before anything is written."""
    for name in recipe.method.selected_extractors() if isinstance(recipe.method, AFS) else ():
        check_answer(FeatureExtractor(load_extractor(name)).logits, dataset.train, name)
        card = card_of(name) if Path(name).is_dir() else {}
        if card.get("data", dataset.name) != dataset.name:
            reporter.log(f"{name} was trained on {card['data']}, not on {dataset.name}.")
        count = recipe.loop.held_out(len(dataset.train))
        held_out = {"seed": recipe.seed, "validation_images": count}
        if not held_out.items() <= (card or held_out).items():
            reporter.log(
                f"{name} had other validation images, so it was trained on some of those that now "
                "validate the merger. The test images are not affected."
            )
    check_forward(stages, dataset.train)
