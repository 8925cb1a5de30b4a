"""Estimate how long a recipe takes: its passes, times the measured duration of one pass."""

import time
from collections.abc import Sequence
from itertools import compress
from typing import Any

import torch

from equipoise.data import DataSet
from equipoise.evaluation.gate_attacks import GATE_RATIOS
from equipoise.evaluation.suites import suites_for
from equipoise.methods import AFA, AFS, OAT, SingleNetwork
from equipoise.recipes import Evaluation, Recipe

ADAPTIVE = {AFA: 17, AFS: 3, OAT: 4}
"""Approximate number of searches in suite ``adaptive`` for a method; for AFS, for each member."""


def seconds_a_pass(recipe: Recipe, dataset: DataSet) -> float:
    """Measure one forward and backward pass of an image on one thread.

    Args:
        recipe: Recipe of the network, which is newly initialised.
        dataset: Data set of the images.

    Returns:
        Seconds for each image.
    """
    batches = 3  # timed, after one for warm-up
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = recipe.network.maker(dataset)().to(device)
    images = dataset.train.take(slice(0, recipe.loop.batch_size)).batch(slice(None))[0].to(device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number in range(batches + 1):
            if number == 1:
                start = time.perf_counter()
            float(network(images).sum().backward() or 0.0)
    finally:
        torch.set_num_threads(threads)
    return (time.perf_counter() - start) / (batches * len(images))


def training_passes(recipe: Recipe, dataset: DataSet, shared: bool = False) -> float:
    """Count the forward and backward passes of training, without validation.

    Args:
        recipe: Recipe of the model.
        dataset: Data set of the images.
        shared: Whether all stages but the last are taken from another run.

    Returns:
        Passes of single images.
    """
    method, images = recipe.method, len(dataset.train)
    images -= recipe.loop.held_out(images)
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
    """Count the passes of an evaluation in which no attack succeeds, an upper bound.

    Args:
        recipe: Recipe of the model.
        evaluation: Settings of the evaluation.
        dataset: Data set of the images.

    Returns:
        Passes of single images.
    """
    network = recipe.network.maker(dataset)()
    suites: Sequence[Any] = [s for s in evaluation.suites if s not in ("transfer", "autoattack")]
    steps = 0.0
    for suite in suites_for(network, suites, classes=dataset.test.classes, steps=evaluation.steps):
        for attack in suite.attacks:
            settings = attack.describe()
            attack_steps = settings.get("steps", settings.get("queries", 0) / 3)
            steps += attack_steps * settings.get("restarts", 1) * settings.get("targets", 1)
    if "autoattack" in evaluation.suites:
        steps += 1900 + 5000 / 3
    if "ratios" in evaluation.suites and isinstance(recipe.method, AFA):
        steps += 2 * len(GATE_RATIOS) * evaluation.steps
    members = sum(recipe.method.selected()) if isinstance(recipe.method, AFS) else 1
    if "adaptive" in evaluation.suites:
        steps += ADAPTIVE.get(type(recipe.method), 0) * members * evaluation.steps
    images = min(evaluation.images or len(dataset.test), len(dataset.test))
    return images * len([e for e in evaluation.epsilons if e > 0]) * steps * members
