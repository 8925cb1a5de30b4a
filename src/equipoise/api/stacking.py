"""Build an AFS recipe over models that are already trained."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from equipoise.data import Augmentation, DataSource
from equipoise.methods import AFS
from equipoise.models.io.external import is_external
from equipoise.models.io.model_folder import locate, read_config
from equipoise.recipes import RECIPES, Evaluation, Recipe, from_json
from equipoise.recipes.datasets import source_of
from equipoise.runtime.errors import InvalidInput


def stacking(extractors: Sequence[str]) -> Recipe:
    """The recipe ``afs``, which stacks trained networks and trains only the merger.

    Data, evaluation, seed, augmentation and number of validation images are those of the first
    saved model that names its data. Everything else (the merger's schedule, attack and alpha, batch
    size, precision) comes from the AFS recipe for the same data, or from ``afs_cifar10_compact`` if
    there is none.

    Args:
        extractors: Run folders, model folders or ``module:function``, as for ``AFS``; at least one
            is a folder.

    Raises:
        ValueError: If no saved model names the data it was trained on.
        RunError: If a model folder cannot be read.
    """
    saved = [name for name in extractors if not is_external(name)]
    cards = [card for card in map(card_of, saved) if "dataset" in card]
    if not cards:
        raise InvalidInput(
            "afs needs saved models to stack, and takes the data from the first: name them as in "
            "equipoise train afs --extractors runs/a runs/b. To stack functions alone, name the "
            "AFS recipe for their data: equipoise train afs_digits --extractors my_models:one ..."
        )
    card = cards[0]
    dataset = source_of(card, None)
    base = _recipe_for(dataset)
    evaluation, augmentation = base.evaluation, base.loop.augmentation
    if "evaluation" in card:
        evaluation = from_json(card["evaluation"], Evaluation)
    if "training" in card:
        augmentation = from_json(card["training"]["loop"]["augmentation"], Augmentation)
    images = card.get("validation_images", base.loop.validation_images)
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


def card_of(model: str) -> dict[str, Any]:
    """The card of a saved model.

    Raises:
        RunError: If the model folder cannot be read.
    """
    card: dict[str, Any] = read_config(locate(model))["card"]
    return card


def _recipe_for(dataset: DataSource) -> Recipe:
    """The first AFS recipe for a kind of data set."""
    for make in RECIPES.values():
        recipe = make()
        if isinstance(recipe.method, AFS) and type(recipe.dataset) is type(dataset):
            return recipe
    return RECIPES["afs_cifar10_compact"]()
