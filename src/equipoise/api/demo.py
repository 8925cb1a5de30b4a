"""The demo: train and evaluate four recipes on digits."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from equipoise.api.evaluate import evaluate
from equipoise.api.evaluation_settings import EvaluationSettings
from equipoise.api.train import train
from equipoise.execution.process_pool import side_by_side
from equipoise.models.io.model_folder import weights_sha256
from equipoise.recipes import RECIPES, Recipe
from equipoise.records.files import read_record
from equipoise.runtime.reporter import NullReporter, Reporter
from equipoise.runtime.run_folder import RunFolder

DEMO = ("standard_digits", "pgd_at_digits", "afa_digits", "afs_digits")


def demo(
    folder: Path,
    *,
    seed: int = 0,
    workers: int | None = None,
    reporter: Callable[[str], Reporter] | None = None,
) -> list[dict[str, Any]]:
    """Train and evaluate the four demo recipes on digits; finished work is reused.

    Args:
        folder: Parent of the four run folders.
        seed: Random seed for training.
        workers: Recipes trained in parallel, one thread each; by default one per core.
        reporter: Returns the reporter for a recipe name.

    Returns:
        Four records.
    """
    records = side_by_side(
        {
            name: (train_and_evaluate, (replace(RECIPES[name](), seed=seed), folder / name))
            for name in reversed(DEMO)  # the longest first
        },
        workers=workers or os.cpu_count() or 1,
        threads=1,
        reporter=reporter or (lambda name: NullReporter()),
    )
    return [records[name] for name in DEMO]


def train_and_evaluate(recipe: Recipe, folder: Path, *, reporter: Reporter) -> dict[str, Any]:
    """Train and evaluate a recipe; finished work is reused.

    Args:
        recipe: The recipe.
        folder: Its run folder.
        reporter: Receives progress and log messages.

    Returns:
        The record.
    """
    train(recipe, folder, resume=True, reporter=reporter)
    path = RunFolder(folder).records / f"{recipe.name}__seed{recipe.seed}.json"
    if path.exists():
        record = read_record(path)
        weights = weights_sha256(RunFolder(folder).model)
        settings = EvaluationSettings(evaluation=recipe.evaluation).to_json()
        if record.get("weights_sha256") == weights and record.get("settings") == settings:
            return record
    return evaluate(folder, reporter=reporter)[0]
