"""What a user asks for in one call: train a recipe, evaluate models, run the demo."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from lightning_fabric import Fabric
from torch import nn

from equipoise.data import DataSet
from equipoise.distributed.ranks import Ranks
from equipoise.distributed.ranks import launched as launched
from equipoise.execution.local import check_answer, check_forward, execute, keeps_its_last_epoch
from equipoise.methods import AFS, Stage
from equipoise.methods.afs import load_extractor
from equipoise.models import FeatureExtractor, save
from equipoise.models.io.trust import Trusted, trusting
from equipoise.models.io.validate_card import check_card
from equipoise.recipes import RECIPES, Recipe, from_json, to_json
from equipoise.runtime.environment import commit, environment
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import read_json, write_json
from equipoise.runtime.reporter import NullReporter, Reporter
from equipoise.workflows import model_card
from equipoise.workflows.datasets import named_source as named_source
from equipoise.workflows.datasets import with_folder as with_folder
from equipoise.workflows.evaluate import evaluate as evaluate
from equipoise.workflows.resume_checks import ENVIRONMENT, RECIPE, check_same_data, claimed
from equipoise.workflows.stacking import _card


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
            found: Recipe = from_json(read_json(path))
        except ValueError as error:
            raise RunError(f"{path} is {error}") from error
        return found
    import difflib

    near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`equipoise list` names them all."
    raise ValueError(f"there is no recipe or recipe file {name!r}. {hint}")


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
            ``launched`` gives it; by default this process trains alone.
        elsewhere: Trains the stages in place of this process, as
            ``equipoise.execution.ray_cluster`` does on a cluster.

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
    fabric = fabric or launched(recipe.loop.precision, recipe.loop.batch_size)
    ranks = Ranks(fabric)
    with contextlib.ExitStack() as stack:
        content = to_json(recipe)
        ranks.on_rank_zero(lambda: stack.enter_context(claimed(folder, content, resume)))
        # One after the other: the first may leave a file that the others read.
        dataset = dataset or ranks.on_rank_zero(recipe.dataset.load) or recipe.dataset.load()
        # Before hours of work.
        check_card({"name": recipe.name, "classes": list(dataset.class_names)})
        if reporter is not None and ranks.rank == 0:
            reporter.log(dataset.summary())
        stages = recipe.method.stages(recipe.network.maker(dataset))
        _check_fit(recipe, stages, dataset, reporter or NullReporter())
        about = environment() | {"processes": ranks.world, "data_digest": dataset.digest()}
        check_same_data(folder, about["data_digest"])
        ranks.on_rank_zero(lambda: write_json(folder / RECIPE, content))
        ranks.on_rank_zero(lambda: write_json(folder / ENVIRONMENT, about))
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
            ranks.on_rank_zero(lambda: save_it(last, folder / "last", f"{recipe.name}_last"))
        ranks.on_rank_zero(lambda: save_it(model, folder / "model", recipe.name))
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
            "commit": commit(),
        }
        save(model, place, card)
        model_card.write_card(place)


def _check_fit(
    recipe: Recipe, stages: Sequence[Stage], dataset: DataSet, reporter: Reporter
) -> None:
    """Refuse networks that do not fit the data before anything is written."""
    for name in recipe.method.selected_extractors() if isinstance(recipe.method, AFS) else ():
        check_answer(FeatureExtractor(load_extractor(name)).logits, dataset.train, name)
        card = _card(name) if Path(name).is_dir() else {}
        if card.get("data", dataset.name) != dataset.name:
            reporter.log(f"{name} was trained on {card['data']}, not on {dataset.name}.")
        held_out = {"seed": recipe.seed, "validation_images": recipe.loop.validation_images}
        if not held_out.items() <= (card or held_out).items():
            reporter.log(
                f"{name} was trained on some of the images that now validate the merger, since its "
                "own validation images were others. Test images are not touched by this."
            )
    check_forward(stages[0], dataset.train)
    dataset.train.check_held_out(recipe.loop.validation_images)
