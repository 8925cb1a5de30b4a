"""Train contenders within one budget, choose on validation images, judge on test images.

The folder of a frontier::

    OUT/
      plan.json                 measured cost of an epoch and epochs of each candidate
      runs/<candidate>__seed<n> run folders with records on validation and on test images
      frontier.json             every point: accuracies, intervals, costs, what was chosen
      frontier.md, .svg, .png   table, sentences and figure made of it
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from equipoise.api.evaluate import evaluate
from equipoise.api.train import train
from equipoise.distributed.ranks import launched
from equipoise.evaluation import SuiteName
from equipoise.execution.process_pool import side_by_side
from equipoise.frontier.budget import (
    fit_to_budget,
    planned_seconds,
    schedules_of,
    seconds_an_epoch,
    spent_seconds,
)
from equipoise.frontier.plan import Candidate, Contender
from equipoise.models import count_multiply_adds
from equipoise.recipes import Recipe, to_json
from equipoise.report.frontier import on_front, write_frontier
from equipoise.runtime.environment import environment
from equipoise.runtime.errors import InvalidInput
from equipoise.runtime.files import read_json, write_json
from equipoise.runtime.reporter import NullReporter, Reporter
from equipoise.runtime.run_folder import RunFolder
from equipoise.training import DONE

PLAN, RESULT = "plan.json", "frontier.json"
Work = Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]]
"""Functions and their arguments, by name."""


@dataclass(frozen=True, kw_only=True)
class FrontierSettings:
    """How a frontier is made.

    Args:
        budget: Seconds of each training, all stages together: processor seconds on CPU, seconds
            on a GPU.
        seeds: Training seeds; every candidate is trained with each.
        validation_images: Images held out of training on which points are chosen.
        test_images: Test images on which chosen points are judged; all of them by default.
        suites: Suites of the judgement. Points are chosen under ``quick``.
        checks: Run the self-checks on the chosen points.
        workers: Trainings at a time, one thread each; by default one for each core.
    """

    budget: float
    seeds: tuple[int, ...] = (0,)
    validation_images: int = 1000
    test_images: int | None = None
    suites: tuple[SuiteName, ...] = ("quick", "adaptive")
    checks: bool = True
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.budget <= 0:
            raise InvalidInput(f"budget must be positive, got {self.budget:g} s.")
        if not self.seeds:
            raise InvalidInput("seeds must hold at least one seed, got none.")


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """A finished frontier, or its plan.

    Args:
        folder: Its folder.
        points: One entry for each candidate, as in ``frontier.json``.
        files: Files that were written.
    """

    folder: Path
    points: list[dict[str, Any]]
    files: tuple[Path, ...] = ()


@runtime_checkable
class Executor(Protocol):
    """Runs functions, as ``RayExecutor.run`` does."""

    def run(self, work: Work) -> dict[str, Any]:
        """Run all functions and return their results by name."""
        ...


def frontier(
    contenders: Sequence[Contender],
    folder: Path,
    settings: FrontierSettings,
    *,
    plan_only: bool = False,
    executor: Executor | None = None,
    reporter: Callable[[str], Reporter] | None = None,
) -> Frontier:
    """Compare methods at the same measured training cost.

    Every candidate gets as many epochs as the budget buys, from a few measured steps; its last
    epoch is kept. All are attacked on validation images. Those that no other candidate of the same
    method surpasses there in both accuracies are judged on test images, and of each method the one
    with the highest mean of clean and worst-case accuracy is its choice. Finished work is reused:
    call again to continue.

    Args:
        contenders: Methods, each with its knob.
        folder: Where everything goes.
        settings: Budget, seeds and images.
        plan_only: Only measure, and return what would be trained.
        executor: Runs the trainings, such as a ``RayExecutor``; by default processes here.
        reporter: Returns the reporter of a job by its name; ``""`` is that of the whole.

    Returns:
        The points, and the files with table and figure.

    Raises:
        ValueError: If contenders differ in data or strengths, share a name, or cost more than the
            budget for a single epoch.
        Interrupted: If it was asked to stop; the same call continues.
        RunError: If a file cannot be read or written.
    """
    reporter = reporter or (lambda name: NullReporter())
    candidates = [each for one in contenders for each in one.candidates()]
    _check(contenders, candidates)
    dataset = candidates[0].recipe.dataset.load()
    workers = settings.workers or os.cpu_count() or 1

    def run(work: Work, at_a_time: int = workers) -> dict[str, Any]:
        if executor is not None:
            return executor.run(work)
        return side_by_side(work, workers=at_a_time, threads=1, reporter=reporter)

    plan = _plan(candidates, folder, settings, partial(run, at_a_time=1), reporter("").log)
    points = [_planned(each, plan[each.key()]) for each in candidates]
    if plan_only:
        return Frontier(folder=folder, points=points)

    ways = [(each, seed) for each in candidates for seed in settings.seeds]
    runs = {_job(each, seed): (each, seed) for each, seed in ways}  # a run is named once
    trained = run(
        {
            name: (_train, (_recipe(each, plan, seed, settings), _folder(folder, each, seed)))
            for name, (each, seed) in runs.items()
        }
    )
    measured = run(_judging(ways, folder, settings, "validation", _validating(settings)))
    for point, each in zip(points, candidates, strict=True):
        point["runs"] = [trained[_job(each, seed)] | {"seed": seed} for seed in settings.seeds]
        point["validation"] = [measured[_judged(each, s, "validation")] for s in settings.seeds]
    _choose(points)
    shown = [
        (each, seed)
        for point, each in zip(points, candidates, strict=True)
        for seed in settings.seeds
        if point["on_front"]
    ]
    tested = run(_judging(shown, folder, settings, "test", _testing(settings)))
    for point, each in zip(points, candidates, strict=True):
        if point["on_front"]:
            point["test"] = [tested[_judged(each, seed, "test")] for seed in settings.seeds]
    document = {
        "data": dataset.name,
        "budget": settings.budget,
        "unit": "processor seconds" if _on_cpu(candidates[0].recipe) else "GPU seconds",
        "epsilon": max(candidates[0].recipe.evaluation.epsilons),
        "norm": candidates[0].recipe.evaluation.norm,
        "suites": list(settings.suites),
        "points": points,
        "environment": environment(),
    }
    write_json(folder / RESULT, document)
    files = (folder / RESULT, *write_frontier(document, folder))
    return Frontier(folder=folder, points=points, files=files)


def _check(contenders: Sequence[Contender], candidates: Sequence[Candidate]) -> None:
    names = [one.name for one in contenders]
    if not names:
        raise InvalidInput("a frontier needs at least one method, got none.")
    if len(set(names)) < len(names):
        raise InvalidInput(f"methods must differ, got {', '.join(names)}; give all values at once.")
    for what in ("dataset", "evaluation.norm", "evaluation.epsilons"):
        values = {str(_field(each.recipe, what)) for each in candidates}
        if len(values) > 1:
            raise InvalidInput(f"methods must agree in {what}, got {' and '.join(sorted(values))}.")


def _field(recipe: Recipe, path: str) -> Any:
    value: Any = recipe
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _on_cpu(recipe: Recipe) -> bool:
    return launched(recipe.loop.precision, recipe.loop.batch_size).device.type == "cpu"


def _plan(
    candidates: Sequence[Candidate],
    folder: Path,
    settings: FrontierSettings,
    run: Callable[["Work"], dict[str, Any]],
    log: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """Epochs of each candidate, measured once: a second call trains as many."""
    path = folder / PLAN
    stored: dict[str, Any] = read_json(path) if path.exists() else {"runs": {}}
    if stored.get("budget", settings.budget) != settings.budget:
        raise InvalidInput(
            f"{folder} holds a frontier with a budget of {stored['budget']:g} s, got "
            f"{settings.budget:g}; choose another folder with --out."
        )
    for each in candidates:
        recipe = to_json(each.recipe)
        known = stored["runs"].get(each.key())
        if known is not None and known["recipe"] != recipe:
            raise InvalidInput(
                f"{folder} holds another recipe for {each.key()}; choose another folder with --out."
            )
        if known is None:
            # In a worker with one thread, as it will be trained.
            name = f"{each.key()} cost"
            an_epoch = run({name: (_measure, (each.recipe,))})[name]
            fitted = fit_to_budget(each.recipe, an_epoch, settings.budget)
            stored["runs"][each.key()] = {
                "recipe": recipe,
                "seconds_an_epoch": an_epoch,
                "planned_seconds": planned_seconds(fitted, an_epoch),
                "epochs": {name: s.epochs for name, s in schedules_of(fitted).items()},
            }
            stored["budget"] = settings.budget
            write_json(path, stored)
        about = stored["runs"][each.key()]
        epochs = " + ".join(map(str, about["epochs"].values()))
        log(f"{each.key()}: {epochs} epochs, {about['planned_seconds']:.0f} s")
    runs: dict[str, dict[str, Any]] = stored["runs"]
    return runs


def _measure(recipe: Recipe, *, reporter: Reporter) -> dict[str, float]:
    return seconds_an_epoch(recipe, recipe.dataset.load())


def _planned(each: Candidate, about: dict[str, Any]) -> dict[str, Any]:
    return {
        "method": each.method,
        "knob": each.knob,
        "value": each.value,
        "name": each.key(),
        "planned_seconds": about["planned_seconds"],
        "epochs": about["epochs"],
    }


def _recipe(
    each: Candidate, plan: Mapping[str, dict[str, Any]], seed: int, settings: FrontierSettings
) -> Recipe:
    fitted = fit_to_budget(each.recipe, plan[each.key()]["seconds_an_epoch"], settings.budget)
    loop = replace(fitted.loop, validation_images=settings.validation_images)
    return replace(fitted, name=each.key(), seed=seed, loop=loop)


def _folder(folder: Path, each: Candidate, seed: int) -> Path:
    return folder / "runs" / _job(each, seed)


def _job(each: Candidate, seed: int) -> str:
    return f"{each.key()}__seed{seed}"


def _judged(each: Candidate, seed: int, part: str) -> str:
    at = "" if each.preference is None else f" at {each.preference:g}"
    return f"{_job(each, seed)}{at} {part}"


def _judging(
    ways: Sequence[tuple[Candidate, int]],
    folder: Path,
    settings: FrontierSettings,
    part: str,
    changes: dict[str, Any],
) -> Work:
    return {
        _judged(each, seed, part): (
            _evaluate,
            (
                _folder(folder, each, seed),
                changes | {"preference": each.preference, "part": part},
            ),
        )
        for each, seed in ways
    }


def _validating(settings: FrontierSettings) -> dict[str, Any]:
    return {"suites": ("quick",), "images": None, "checks": False}


def _testing(settings: FrontierSettings) -> dict[str, Any]:
    checks = settings.checks
    return {"suites": settings.suites, "images": settings.test_images, "checks": checks}


def _train(recipe: Recipe, folder: Path, *, reporter: Reporter) -> dict[str, Any]:
    """Train one candidate, and return its cost."""
    model = train(recipe, folder, resume=True, reporter=reporter)
    summaries = [read_json(path) for path in sorted(RunFolder(folder).stages.glob(f"*/{DONE}"))]
    shape = recipe.dataset.load().image_shape
    return {
        "seconds": round(spent_seconds(summaries, _on_cpu(recipe)), 1),
        "multiply_adds": count_multiply_adds(model, shape),
    }


def _evaluate(folder: Path, changes: dict[str, Any], *, reporter: Reporter) -> dict[str, Any]:
    """Clean and worst-case accuracy at the strongest attack of the recipe."""
    record = evaluate(folder, reporter=reporter, **changes).record
    accuracy, interval = record["headline"]["accuracy"], record["headline"]["interval"]
    return {
        "clean": accuracy[0],
        "worst": accuracy[-1],
        "intervals": [interval[0], interval[-1]],
        "images": record["images"],
        "failed_checks": [
            check["name"] for check in record.get("self_checks") or () if check["verdict"] == "fail"
        ],
    }


def _choose(points: list[dict[str, Any]]) -> None:
    """Mark the points of each method's front on validation images, and its choice."""
    for method in dict.fromkeys(point["method"] for point in points):
        own = [point for point in points if point["method"] == method]
        for point in own:
            count = len(point["validation"])
            point["clean"], point["worst"] = (
                sum(run[name] for run in point["validation"]) / count for name in ("clean", "worst")
            )
        best = max(own, key=lambda point: float(point["clean"] + point["worst"]))
        for point in own:
            point["on_front"] = on_front(point, own)
            point["chosen"] = point is best
    for point in points:  # those are of the choice; a page shows test images
        del point["clean"], point["worst"]
