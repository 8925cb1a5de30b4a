"""How long a recipe will take: its passes through the network, times one that is measured here."""

import time
from collections.abc import Sequence
from itertools import compress
from typing import Any

import torch

from equipoise.data import DataSet
from equipoise.evaluation.suites import suites_for
from equipoise.methods import AFA, AFS, OAT, SingleNetwork
from equipoise.recipes import Evaluation, Recipe

ADAPTIVE = {AFA: 17, AFS: 3, OAT: 4}
"""About how many searches the suite ``adaptive`` has for a method; for AFS, for each member."""


def seconds_a_pass(recipe: Recipe, dataset: DataSet, batches: int = 3) -> float:
    """Time of one image forward and back through a fresh network of a recipe, on one thread.

    Args:
        recipe: Names the network.
        dataset: Says what an image is like.
        batches: How many are timed, after one that is not.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = recipe.network.maker(dataset)().to(device)
    images = dataset.train.take(slice(0, recipe.loop.batch_size)).batch(slice(None))[0].to(device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number in range(batches + 1):
            if number == 1:
                began = time.perf_counter()
            float(network(images).sum().backward() or 0.0)
    finally:
        torch.set_num_threads(threads)
    return (time.perf_counter() - began) / (batches * len(images))


def training_passes(recipe: Recipe, dataset: DataSet, shared: bool = False) -> float:
    """Forward-and-backward passes that training takes, validation left out.

    Args:
        recipe: What is trained.
        dataset: Says how many images there are.
        shared: All stages but the last are taken from another run.
    """
    method, images = recipe.method, len(dataset.train) - recipe.loop.validation_images
    attacked = method.attack.steps + 1
    epochs = method.schedule.epochs
    if isinstance(method, SingleNetwork):
        return images * epochs * (attacked if method.epsilon or method.random_budgets else 1)
    if isinstance(method, OAT):
        return images * epochs * (attacked + 1)
    if isinstance(method, AFA):
        first = images * epochs * (1 + (len(method.strengths) - 1) * attacked)
        last = images * method.gate_schedule.epochs * (attacked + method.gate.pairs)
        return last * (method.soup is None) + first * (not shared)
    members = list(compress(method.budgets, method.selected()))
    first = images * epochs * sum(attacked if budget else 1 for budget in members)
    last = images * method.merger_schedule.epochs * len(members) * (attacked + 1)
    return last * (method.merger == "trained") + first * (not shared)


def evaluation_passes(recipe: Recipe, evaluation: Evaluation, dataset: DataSet) -> float:
    """The most passes that an evaluation takes, with every image attacked to the end.

    Args:
        recipe: What is evaluated.
        evaluation: How.
        dataset: Says how many images there are.
    """
    network = recipe.network.maker(dataset)()
    known: Sequence[Any] = [s for s in evaluation.suites if s not in ("transfer", "autoattack")]
    steps = 0.0
    for suite in suites_for(network, known, classes=dataset.test.classes, steps=evaluation.steps):
        for attack in suite.attacks:
            settings = attack.describe()
            each = settings.get("steps", settings.get("queries", 0) / 3)
            steps += each * settings.get("restarts", 1) * settings.get("targets", 1)
    if "autoattack" in evaluation.suites:
        steps += 1900 + 5000 / 3
    members = sum(recipe.method.selected()) if isinstance(recipe.method, AFS) else 1
    if "adaptive" in evaluation.suites:
        steps += ADAPTIVE.get(type(recipe.method), 0) * members * evaluation.steps
    images = min(evaluation.images or len(dataset.test), len(dataset.test))
    return images * len([e for e in evaluation.epsilons if e > 0]) * steps * members
