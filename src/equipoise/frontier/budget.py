"""Epochs that a budget of processor seconds buys, from measured steps."""

import math
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from equipoise.api.dry_run import Timing, stage_costs
from equipoise.data import DataSet
from equipoise.distributed.ranks import launched
from equipoise.recipes import Recipe
from equipoise.runtime.errors import InvalidInput
from equipoise.training.schedule import Schedule

AT_THE_END = 10**6
"""Epochs between two validations of a candidate: only the last epoch is validated, and kept."""


def seconds_an_epoch(recipe: Recipe, dataset: DataSet, seconds: float = 5.0) -> dict[str, float]:
    """Measure what an epoch of each schedule of a recipe costs, without validation.

    Args:
        recipe: The recipe.
        dataset: Its data.
        seconds: Time for the steps of one stage.

    Returns:
        Seconds by the name of the schedule's field in the method, such as ``schedule``: processor
        seconds over all threads on CPU, seconds on a GPU.
    """
    fabric = launched(recipe.loop.precision, recipe.loop.batch_size)
    on_cpu = fabric.device.type == "cpu"
    costs = stage_costs(
        recipe.method.stages,
        recipe.network.maker(dataset),
        dataset=dataset,
        loop=recipe.loop,
        seed=recipe.seed,
        fabric=fabric,
        timing=Timing(seconds=seconds, clock=time.process_time if on_cpu else time.perf_counter),
    )
    schedules = schedules_of(recipe)
    plan = {stage.name: stage.schedule for stage in recipe.method.stages(_no_network)}
    found = dict.fromkeys(schedules, 0.0)
    for cost in costs:
        # Equal schedules have as many epochs, so either field may count them.
        name = next(n for n, schedule in schedules.items() if schedule == plan[cost["stage"]])
        found[name] += cost["steps_an_epoch"] * cost["seconds_a_step"]
    return found


def fit_to_budget(recipe: Recipe, an_epoch: dict[str, float], budget: float) -> Recipe:
    """Give a recipe as many epochs as fit into a budget, in the proportions of its schedules.

    Args:
        recipe: The recipe.
        an_epoch: Seconds of an epoch, as ``seconds_an_epoch`` returns them.
        budget: Seconds of all stages together.

    Returns:
        The recipe with other numbers of epochs. Only its last epoch is validated and kept.

    Raises:
        ValueError: If the budget does not suffice for one epoch of each schedule.

    Example:
        >>> from equipoise.recipes import RECIPES
        >>> fitted = fit_to_budget(RECIPES["pgd_at_digits"](), {"schedule": 2.0}, budget=25.0)
        >>> fitted.method.schedule.epochs, planned_seconds(fitted, {"schedule": 2.0})
        (12, 24.0)
    """
    schedules = schedules_of(recipe)
    least = sum(an_epoch.values())
    if least > budget:
        raise InvalidInput(
            f"{recipe.name} needs {least:.0f} s for one epoch of each stage, got a budget of "
            f"{budget:g} s; raise --budget, or leave the method out."
        )
    whole = planned_seconds(recipe, an_epoch)
    epochs = {n: max(1, int(s.epochs * budget / whole)) for n, s in schedules.items()}
    main = max(schedules, key=lambda name: an_epoch[name] * schedules[name].epochs)
    spent = sum(epochs[name] * an_epoch[name] for name in schedules)
    if an_epoch[main]:  # what rounding left over, or took too much
        epochs[main] = max(1, epochs[main] + math.floor((budget - spent) / an_epoch[main]))
    changed = {name: replace(schedules[name], epochs=epochs[name]) for name in schedules}
    loop = replace(recipe.loop, validate_every=AT_THE_END)
    method: Any = recipe.method
    return replace(recipe, method=replace(method, **changed), loop=loop)


def planned_seconds(recipe: Recipe, an_epoch: dict[str, float]) -> float:
    """Seconds of all stages of a recipe."""
    return sum(s.epochs * an_epoch[name] for name, s in schedules_of(recipe).items())


def schedules_of(recipe: Recipe) -> dict[str, Schedule]:
    """The schedules of a recipe's method, by field."""
    method: Any = recipe.method
    values = {field.name: getattr(method, field.name) for field in fields(method)}
    return {name: value for name, value in values.items() if isinstance(value, Schedule)}


def _no_network() -> Any:
    raise AssertionError("a plan's schedules are read without building a network")


def spent_seconds(summaries: Sequence[dict[str, Any]], on_cpu: bool) -> float:
    """Seconds that a run's stages took, from their ``done.json``, over all resumed runs."""
    return sum(float(s["processor_seconds" if on_cpu else "seconds"]) for s in summaries)
