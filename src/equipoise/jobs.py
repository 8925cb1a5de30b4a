"""What a user asks for in one call: train a recipe, evaluate models, run the demo."""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import nn

from equipoise import cards, runs
from equipoise.claims import ENVIRONMENT, RECIPE, check_same_data, claimed
from equipoise.data import Augmentation, DataSet
from equipoise.dry_run import dry_run as measure
from equipoise.executors import check_answer, execute, keeps_its_last_epoch, rehearse
from equipoise.judge import evaluate as evaluate
from equipoise.methods import AFS, Stage
from equipoise.methods.afs import extractor
from equipoise.models import FeatureExtractor, save
from equipoise.models.card import check_card
from equipoise.models.folder import read_config
from equipoise.models.foreign import is_foreign
from equipoise.models.trust import Trusted, trusting
from equipoise.recipes import RECIPES, Evaluation, Recipe, from_json, to_json
from equipoise.side_by_side import side_by_side
from equipoise.sources import named_source as named_source
from equipoise.sources import source_of
from equipoise.sources import with_folder as with_folder
from equipoise.training import Ranks, Reporter, Silent
from equipoise.training import launched as launched

DEMO = ("standard_digits", "pgd_at_digits", "afa_digits", "afs_digits")


def find_recipe(name: str) -> Recipe:
    """A recipe by its name, or from a file that a run left.

    Args:
        name: A name of ``equipoise list``, a ``recipe.json``, or a run folder that holds one.

    Returns:
        The recipe.

    Raises:
        ValueError: If there is no such recipe; the message names the nearest ones.
        RunError: If the file cannot be read.
    """
    if name in RECIPES:
        return RECIPES[name]()
    path = Path(name)
    if (path / RECIPE).is_file():
        path = path / RECIPE
    if path.is_file():
        try:
            found: Recipe = from_json(runs.read_json(path))
        except ValueError as error:
            raise runs.RunError(f"{path} is {error}") from error
        return found
    import difflib

    near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`equipoise list` names them all."
    raise ValueError(f"there is no recipe or recipe file {name!r}. {hint}")


def stacking(extractors: Sequence[str]) -> Recipe:
    """AFS over trained networks: nothing but the merger is trained.

    Data, evaluation, seed, augmentation and the count of validation images are those of the first
    saved model that says on what it was trained; all else (the merger's schedule, attack and
    alpha, batch size, precision) is that of the AFS recipe for the same data, or of
    ``afs_cifar10_compact`` where there is none.

    Args:
        extractors: As ``AFS`` has them; at least one is a run folder or a model folder.

    Returns:
        The recipe, named ``afs``.

    Raises:
        ValueError: If no saved model says which data it was trained on.
        RunError: If a model folder cannot be read.
    """
    saved = [name for name in extractors if not is_foreign(name)]
    cards = [card for card in map(_card, saved) if "dataset" in card]
    if not cards:
        raise ValueError(
            "afs needs saved models to stack, and takes the data from the first: name them as in "
            "equipoise train afs --extractors runs/a runs/b. To stack functions alone, name the "
            "AFS recipe for their data: equipoise train afs_digits --extractors my_models:one ..."
        )
    card = cards[0]
    dataset = source_of(card, None)
    base = RECIPES["afs_cifar10_compact"]()
    for make in reversed(RECIPES.values()):
        found = make()
        if isinstance(found.method, AFS) and type(found.dataset) is type(dataset):
            base = found
    evaluation = base.evaluation
    if "evaluation" in card:
        evaluation = from_json(card["evaluation"], Evaluation)
    images = card.get("validation_images", base.loop.validation_images)
    augmentation = base.loop.augmentation
    if "training" in card:
        augmentation = from_json(card["training"]["loop"]["augmentation"], Augmentation)
    assert isinstance(base.method, AFS)
    return replace(
        base,
        name="afs",
        dataset=dataset,
        evaluation=evaluation,
        seed=card.get("seed", base.seed),
        loop=replace(base.loop, validation_images=images, augmentation=augmentation),
        method=replace(
            base.method,
            budgets=(),
            extractors=tuple(extractors),
            merger_epsilon=max(evaluation.epsilons),
            norm=evaluation.norm,
        ),
    )


def train(
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
    """Train a recipe into a run folder; all its finished and half-finished stages are re-used.

    Args:
        recipe: What to train.
        folder: The run folder.
        resume: Go on in a folder that already holds this recipe's run.
        trust: Code that may be run because the recipe, or a model it stacks, names it: modules,
            ``module:function``, or the functions themselves.
        reporter: Who is told.
        dataset: The recipe's data, if it is already loaded.
        fabric: Of several processes that train together and all call this, as
            ``equipoise.training.launched`` gives it; by default this process trains alone.
        elsewhere: Trains the stages in this process's place, as ``equipoise.ray_executor`` does on
            a cluster.

    Returns:
        The trained model in eval mode, as also saved under ``folder/model``.

    Raises:
        RunError: If the folder holds something and ``resume`` is not set, or another recipe's run,
            or one of other data, another process trains into it, or the recipe needs code that is
            not trusted.
        ValueError: If its name, or that of a class, cannot stand in a model's card.
        DataError: If the data cannot be read.
        TrainingError: If a stage cannot be trained, or a network does not fit the data.
        Interrupted: If the run was asked to stop.
    """
    with trusting(*trust):
        return _train(recipe, folder, resume, reporter, dataset, fabric, elsewhere)


def _train(
    recipe: Recipe,
    folder: Path,
    resume: bool,
    reporter: Reporter | None,
    dataset: DataSet | None,
    fabric: Fabric | None,
    elsewhere: Callable[[Recipe, Path], None] | None,
) -> nn.Module:
    fabric = fabric or launched(recipe.loop)
    ranks = Ranks(fabric)
    with contextlib.ExitStack() as stack:
        content = to_json(recipe)
        ranks.first(lambda: stack.enter_context(claimed(folder, content, resume)))
        # One after the other: the first may leave a file that the others read.
        dataset = dataset or ranks.first(recipe.dataset.load) or recipe.dataset.load()
        # Before hours of work.
        check_card({"name": recipe.name, "classes": list(dataset.class_names)})
        if reporter is not None and ranks.rank == 0:
            reporter.say(dataset.summary())
        stages = recipe.method.stages(recipe.network.maker(dataset))
        _check_fit(recipe, stages, dataset, reporter or Silent())
        about = runs.environment() | {"processes": ranks.world, "data_digest": dataset.digest()}
        check_same_data(folder, about["data_digest"])
        ranks.first(lambda: runs.write_json(folder / RECIPE, content))
        ranks.first(lambda: runs.write_json(folder / ENVIRONMENT, about))
        if elsewhere is not None:
            elsewhere(recipe, folder)
        found = partial(
            execute,
            stages,
            train=dataset.train,
            loop=recipe.loop,
            folder=folder,
            seed=recipe.seed,
            fabric=fabric,
            reporter=reporter,
        )
        model, ran = found()
        save_it = partial(_save, recipe, dataset, changed=bool(ran or elsewhere))
        if not keeps_its_last_epoch(stages[-1], folder):
            last, _ = found(last_epoch=True)
            ranks.first(lambda: save_it(last, folder / "last", f"{recipe.name}_last"))
        ranks.first(lambda: save_it(model, folder / "model", recipe.name))
    return model.eval()


def _save(
    recipe: Recipe, dataset: DataSet, model: nn.Module, place: Path, name: str, changed: bool
) -> None:
    if changed or not (place / "config.json").exists():  # written last
        card = {
            "name": name,
            "data": dataset.name,
            "classes": list(dataset.class_names),
            "image_shape": list(dataset.image_shape),
            "data_digest": dataset.digest(),
            "dataset": to_json(recipe.dataset),
            "evaluation": to_json(recipe.evaluation),
            "training": {name: to_json(recipe)[name] for name in ("network", "method", "loop")},
            "seed": recipe.seed,
            "validation_images": recipe.loop.validation_images,
            "commit": runs.commit(),
        }
        save(model, place, card)
        cards.renew(place)


def dry_run(
    recipe: Recipe, *, seconds: float = 10.0, reporter: Reporter | None = None
) -> dict[str, Any]:
    """What training a recipe would cost on this device; nothing is written.

    Args:
        recipe: What would be trained.
        seconds: About how long the steps of one stage may take.
        reporter: Who is told.

    Returns:
        Plain values: the cost of each stage (see ``equipoise.dry_run``), the sum of their seconds,
        the largest of their memories, and the environment.

    Raises:
        DataError: If the data cannot be read.
        TrainingError: If the loss is no finite number.
    """
    dataset, fabric = recipe.dataset.load(), launched(recipe.loop)
    stages = measure(
        recipe.method.stages,
        recipe.network.maker(dataset),
        dataset=dataset,
        loop=recipe.loop,
        seed=recipe.seed,
        fabric=fabric,
        seconds=seconds,
        reporter=reporter,
    )
    return {
        "recipe": recipe.name,
        "device": str(fabric.device),
        "stages": stages,
        "seconds": sum(stage["seconds"] for stage in stages),
        "memory": max(stage["memory"] for stage in stages),
        "environment": runs.environment(),
    }


def demo(
    folder: Path,
    *,
    seed: int = 0,
    workers: int | None = None,
    reporter: Callable[[str], Reporter] | None = None,
) -> list[dict[str, Any]]:
    """Train and evaluate the four demo recipes on digits; what is already there is re-used.

    Args:
        folder: Gets one run folder a recipe.
        seed: Of training.
        workers: Recipes trained at the same time, one thread each; by default one a core.
        reporter: Gives the reporter of a recipe.

    Returns:
        Four records.
    """
    found = side_by_side(
        {
            name: (train_and_evaluate, (replace(RECIPES[name](), seed=seed), folder / name))
            for name in reversed(DEMO)  # the longest first
        },
        workers=workers or os.cpu_count() or 1,
        threads=1,
        reporter=reporter or (lambda name: Silent()),
    )
    return [found[name] for name in DEMO]


def train_and_evaluate(recipe: Recipe, place: Path, *, reporter: Reporter) -> dict[str, Any]:
    """Train and evaluate a recipe; what is already there is re-used.

    Args:
        recipe: What to train and how to judge it.
        place: Its run folder.
        reporter: Who is told.

    Returns:
        The record.
    """
    train(recipe, place, resume=True, reporter=reporter)
    path = place / "records" / f"{recipe.name}__seed{recipe.seed}.json"
    return runs.read_record(path) if path.exists() else evaluate(place, reporter=reporter)[0]


def _check_fit(
    recipe: Recipe, stages: Sequence[Stage], dataset: DataSet, reporter: Reporter
) -> None:
    """Refuse networks that do not fit the data before anything is written."""
    for name in recipe.method.stacked_extractors() if isinstance(recipe.method, AFS) else ():
        check_answer(FeatureExtractor(extractor(name)).logits, dataset.train, name)
        card = _card(name) if Path(name).is_dir() else {}
        if card.get("data", dataset.name) != dataset.name:
            reporter.say(f"{name} was trained on {card['data']}, not on {dataset.name}.")
        held_out = {"seed": recipe.seed, "validation_images": recipe.loop.validation_images}
        if not held_out.items() <= (card or held_out).items():
            reporter.say(
                f"{name} was trained on some of the images that now validate the merger, since its "
                "own validation images were others. Test images are not touched by this."
            )
    rehearse(stages[0], dataset.train)
    dataset.train.check_held_out(recipe.loop.validation_images)


def _card(extractor: str) -> dict[str, Any]:
    folder = Path(extractor)
    place = folder / "model" if (folder / "model").is_dir() else folder
    card: dict[str, Any] = read_config(place)["card"]
    return card
