"""Build an AFS recipe over models that are already trained."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from equipoise.data import Augmentation
from equipoise.distributed.ranks import launched as launched
from equipoise.methods import AFS
from equipoise.models.io.external import is_external
from equipoise.models.io.model_folder import read_config
from equipoise.recipes import RECIPES, Evaluation, Recipe, from_json
from equipoise.workflows.datasets import named_source as named_source
from equipoise.workflows.datasets import source_of
from equipoise.workflows.datasets import with_folder as with_folder
from equipoise.workflows.evaluate import evaluate as evaluate


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
    saved = [name for name in extractors if not is_external(name)]
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


def _card(extractor: str) -> dict[str, Any]:
    folder = Path(extractor)
    place = folder / "model" if (folder / "model").is_dir() else folder
    card: dict[str, Any] = read_config(place)["card"]
    return card
