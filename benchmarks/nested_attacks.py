"""AFA's stage I on digits, five branches: attacks from random starts, or nested and of fewer steps.

Each branch is then attacked at its own strength by a longer search. Run it from the repository:
``python benchmarks/nested_attacks.py``.
"""

import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from lightning_fabric import Fabric
from timing import rounded, settings
from timing import write_record as write

from equipoise.attacks import PGD, losses
from equipoise.attacks.goals import SuccessTracker
from equipoise.attacks.threat import Linf
from equipoise.data import DataSet
from equipoise.execution.local import execute
from equipoise.models.attack_mode.context import attack_mode
from equipoise.recipes import RECIPES, Recipe

FORMS = ((False, 5, 0.4), (False, 3, 0.4), (True, 3, 0.4), (True, 2, 0.5))
"""Nested or not, steps at each strength, and their length as a share of it."""
JUDGE = PGD(steps=20, relative_step=0.1, restarts=2, keep="best")


def branches(recipe: Recipe, dataset: DataSet, seed: int) -> tuple[Any, float]:
    """The network after stage I, and the processor seconds it took."""
    method: Any = recipe.method
    fabric = Fabric(accelerator="cpu", devices=1, precision=recipe.loop.precision)
    fabric.launch()
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        network, _ = execute(
            method.stages(recipe.network.maker(dataset))[:1],
            train=dataset.train,
            loop=recipe.loop,
            folder=Path(folder),
            seed=seed,
            fabric=fabric,
        )
    return network, time.process_time() - began


def accuracies(network: Any, dataset: DataSet, strengths: tuple[float, ...]) -> list[float]:
    """Of each branch at its own strength."""
    images, labels = dataset.test.batch(slice(None))
    found = []
    for branch, epsilon in enumerate(strengths):
        through = partial(network, branch=branch)
        goal = SuccessTracker(through, labels, losses.cross_entropy)
        with attack_mode(network):
            if epsilon > 0:
                JUDGE(goal, images, Linf(epsilon), torch.Generator().manual_seed(0))
            with torch.no_grad():
                goal(images)
        found.append(1 - float(goal.broken.double().mean()))
    return found


def main() -> None:
    """Run, print, write the record."""
    given = settings(__doc__, seeds=3)
    recipe: Any = RECIPES["afa_digits_k5"]()
    dataset = recipe.dataset.load()
    rows = []
    for nested, steps, length in FORMS:
        attack = replace(recipe.method.attack, steps=steps, relative_step=length)
        made = replace(recipe, method=replace(recipe.method, attack=attack, nested=nested))
        runs = [branches(made, dataset, seed) for seed in range(given.seeds)]
        scores = [accuracies(network, dataset, recipe.method.strengths) for network, _ in runs]
        row = {
            "nested": nested,
            "steps": steps,
            "relative_step": length,
            "accuracy": [[rounded(each) for each in score] for score in scores],
            "mean": [rounded(mean(column)) for column in zip(*scores, strict=True)],
            "processor_seconds": [rounded(seconds) for _, seconds in runs],
        }
        rows.append(row)
        print(row, flush=True)
    write(__file__, given, {"strengths": recipe.method.strengths, "forms": rows})


if __name__ == "__main__":
    main()
