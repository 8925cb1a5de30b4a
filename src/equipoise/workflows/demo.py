"""The demo: train and evaluate four recipes on digits."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from equipoise.distributed.ranks import launched as launched
from equipoise.execution.process_pool import side_by_side
from equipoise.recipes import RECIPES, Recipe
from equipoise.records.files import read_record
from equipoise.runtime.reporter import NullReporter, Reporter
from equipoise.workflows.datasets import named_source as named_source
from equipoise.workflows.datasets import with_folder as with_folder
from equipoise.workflows.evaluate import evaluate as evaluate
from equipoise.workflows.train import train

DEMO = ("standard_digits", "pgd_at_digits", "afa_digits", "afs_digits")


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
        reporter=reporter or (lambda name: NullReporter()),
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
    return read_record(path) if path.exists() else evaluate(place, reporter=reporter)[0]
