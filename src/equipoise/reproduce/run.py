"""Reproduce tables and figures of the papers: train missing models, evaluate them, draw.

The folder of a reproduction::

    runs/reproduce/<scale>/
      README.md                 every table and figure made so far
      <entry>.md, .csv, .tex    a table;  .svg, .png, .pdf, .md a figure and its caption
      runs/<recipe>__seed<n>/   run folders, one for each model, shared by all entries

A model that has its run folder is not trained again. It is not evaluated again if it has a record
of the same settings. Recipes that differ only in their last stage share the stages before it.
"""

import json
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from equipoise.api.evaluate import evaluate
from equipoise.api.train import train
from equipoise.data import DataSet, DataSource
from equipoise.evaluation import SuiteName
from equipoise.execution.process_pool import side_by_side
from equipoise.recipes import to_json
from equipoise.report.papers import (
    ENTRIES,
    Entry,
    Figure,
    Result,
    Results,
    Scale,
    find_entries,
    recipes_of,
    write_entry,
    write_index,
)
from equipoise.reproduce.cost_estimate import evaluation_passes, seconds_a_pass, training_passes
from equipoise.reproduce.figure_data import figure_data
from equipoise.reproduce.plan import (
    Models,
    PlannedModel,
    copy_earlier_stages,
    finished_models,
    is_stack_of_models,
    plan_models,
    stage_sources,
)
from equipoise.runtime.errors import InvalidInput
from equipoise.runtime.reporter import NullReporter, Reporter


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Result of a reproduction.

    Args:
        entries: Tables and figures that were made.
        results: Measured values by recipe.
        files: Files that were written; the last is the page with all entries.
    """

    entries: tuple[Entry, ...]
    results: Results
    files: tuple[Path, ...]


def reproduce(
    names: Sequence[str],
    scale: Scale,
    *,
    seeds: Sequence[int] = (0,),
    out: Path = Path("runs/reproduce"),
    data: Path | None = None,
    workers: int | None = None,
    mode: Literal["run", "finished", "plan"] = "run",
    reporter: Callable[[str], Reporter] | None = None,
) -> Reproduction:
    """Reproduce tables and figures.

    Args:
        names: Names of entries; ``"all"`` for every one.
        scale: Scale, one of ``equipoise.report.papers.SCALES``.
        seeds: Training seeds, one model each.
        out: Folder in which the folder of the scale is made.
        data: Folder of the data set, or one that holds a folder for each: ``cifar10``, ``svhn``.
        workers: Number of models trained at the same time; by default one for each CPU core, or one
            on a GPU.
        mode: ``"finished"`` trains and evaluates nothing: rows without a result show their
            published values alone, and entries without any result are left out. ``"plan"`` only
            reports the remaining work and its estimated duration.
        reporter: Function that returns the reporter of a job, given the job's name. That of the
            job ``""`` receives the remaining work and its estimated duration before it starts.

    Returns:
        Entries, results and files.

    Raises:
        ValueError: If an entry is unknown, a recipe is missing at this scale, or there is no seed.
        DataError: If the data cannot be read.
        Interrupted: If it was asked to stop; the same call continues.
        RunError: If a file cannot be read or written.

    Example:
        >>> import tempfile
        >>> from equipoise.report.papers import SCALES
        >>> folder = Path(tempfile.mkdtemp())
        >>> made = reproduce(["afs-table-5"], SCALES["tiny"], out=folder, mode="finished")
        >>> [file.relative_to(folder).as_posix() for file in made.files]  # doctest: +ELLIPSIS
        ['tiny/afs-table-5.md', 'tiny/afs-table-5.csv', ..., 'tiny/README.md']
    """
    entries: Sequence[Entry] = find_entries(names)
    if not seeds:
        raise InvalidInput("seeds must hold at least one seed, got none.")
    folder = out / scale.name
    models, surrogates = plan_models(entries, scale, seeds, folder, data)
    for model in models.values():
        model.check_recipe()
    load, reporter = _Loader(), reporter or (lambda name: NullReporter())
    log = reporter("").log
    if mode == "finished":
        models, surrogates = finished_models(models, surrogates)
        entries = _drawable(entries, scale, models, log)
    else:
        workers = workers or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
        _announce(models, surrogates, load, workers, log)
        if mode == "plan":
            return Reproduction(entries=(), results={}, files=())
        _run(models, surrogates, workers, reporter)
    results: dict[str, Sequence[Result]] = {**_results(models, surrogates)}
    files: list[Path] = []
    for entry in entries:
        results.update(_with_multiply_adds(entry, scale, results, models, load))
        data_of_figure = _figure_data(entry, scale, models, load)
        files += write_entry(entry, scale, results, data_of_figure, folder)
    files.append(write_index(list(ENTRIES.values()), scale, folder))
    return Reproduction(entries=tuple(entries), results=results, files=tuple(files))


def _drawable(
    entries: Sequence[Entry], scale: Scale, models: Models, log: Callable[[str], None]
) -> tuple[Entry, ...]:
    """Entries with at least one result; figures computed from models need all of their models."""
    finished, drawable = {name for name, _ in models}, []
    for entry in entries:
        names = {name for part in entry.parts() for name in recipes_of(part, scale)}
        enough = _complete_seeds(names, models) if entry.needs_models() else names & finished
        if enough or not names:
            drawable.append(entry)
        else:
            missing = names - finished or names
            log(f"{entry.name} is left out; not finished: {', '.join(sorted(missing))}")
    return tuple(drawable)


def _announce(
    models: Models,
    surrogates: Models,
    load: "_Loader",
    workers: int,
    log: Callable[[str], None],
) -> None:
    """Log the remaining work and its estimated duration."""
    sharing, needed = stage_sources(models), list[float]()
    rates: dict[Any, float] = {}
    for (name, seed), model in models.items():
        key, surrogate = (name, seed), surrogates.get((name, seed))
        to_train, to_evaluate = not model.is_trained(), model.shown and model.record() is None
        to_transfer = surrogate is not None and model.record(surrogate.folder) is None
        to_run = [suite for suite in model.apart if model.record(apart=suite) is None]
        if not (to_train or to_evaluate or to_transfer or to_run):
            continue
        dataset = load(model.recipe.dataset)
        network = (model.recipe.network, dataset.name)
        if network not in rates:
            rates[network] = seconds_a_pass(model.recipe, dataset)
        shared = key in sharing or is_stack_of_models(model)
        passes = to_train * training_passes(model.recipe, dataset, shared=shared)
        passes += to_evaluate * evaluation_passes(model.recipe, model.evaluation, dataset)
        seconds = passes * rates[network]
        needed.append(seconds)
        work = ["train"] * to_train + ["evaluate"] * to_evaluate + ["transfer"] * to_transfer
        work += to_run
        log(f"{name}, seed {seed}: {', '.join(work)}, up to {_duration(seconds)}")
    if needed:
        workers = min(workers, len(needed))
        whole = max(*needed, sum(needed) / workers) if len(needed) > 1 else needed[0]
        at_a_time = f" with {workers} at a time" if workers > 1 else ""
        log(f"total: up to {_duration(whole)}{at_a_time}")
    else:
        log("all models are trained and evaluated")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _run(
    models: Models,
    surrogates: Models,
    workers: int,
    reporter: Callable[[str], Reporter],
) -> None:
    """Train and evaluate what is missing: first sources of shared stages, then the others."""
    sources = stage_sources(models)
    # Two waves: the second needs stages, extractors or images from models of the first.
    first: dict[str, Any] = {}
    second: dict[str, Any] = {}
    for key, model in models.items():
        if not model.is_finished():
            wave = second if key in sources or is_stack_of_models(model) else first
            wave[_job_name(key)] = (_train_and_evaluate, (model, sources.get(key)))
    second |= {
        f"{_job_name(key)} transfer": (_evaluate, (models[key], surrogate.folder))
        for key, surrogate in surrogates.items()
        if models[key].record(surrogate.folder) is None
    }
    second |= {
        f"{_job_name(key)} {suite}": (_evaluate, (model, None, suite))
        for key, model in models.items()
        for suite in model.apart
        if model.record(apart=suite) is None
    }
    threads = max(1, (os.cpu_count() or 1) // workers)
    for work in filter(None, (first, second)):
        side_by_side(work, workers=workers, threads=threads, reporter=reporter)


def _job_name(key: tuple[str, int]) -> str:
    return f"{key[0]} {key[1]}"


def _train_and_evaluate(
    model: PlannedModel, source: PlannedModel | None, *, reporter: Reporter
) -> None:
    if source is not None and not model.is_trained():
        copy_earlier_stages(source, model)
    train(model.recipe, model.folder, resume=True, reporter=reporter)
    if model.shown:
        _evaluate(model, None, reporter=reporter)


def _evaluate(
    model: PlannedModel,
    surrogate: Path | None,
    apart: SuiteName | None = None,
    *,
    reporter: Reporter,
) -> None:
    evaluate(
        model.folder,
        evaluation=model.evaluation_for(surrogate, apart),
        data=getattr(model.recipe.dataset, "folder", None),
        surrogates=() if surrogate is None else (surrogate,),
        search_precision=model.search_precision,
        checks=False,
        reporter=reporter,
    )


def _results(models: Models, surrogates: Models) -> dict[str, tuple[Result, ...]]:
    results: dict[str, tuple[Result, ...]] = {}
    for (name, seed), model in models.items():
        record = model.record()
        if record is None:  # a member of a stack that is not shown
            continue
        surrogate = surrogates.get((name, seed))
        result = Result(
            recipe=to_json(model.recipe),
            record=record,
            transfer=None if surrogate is None else model.record(surrogate.folder),
            ratios=model.record(apart="ratios") if "ratios" in model.apart else None,
        )
        results[name] = (*results.get(name, ()), result)
    return results


def _with_multiply_adds(
    entry: Entry, scale: Scale, results: Results, models: Models, load: "_Loader"
) -> Results:
    """Results of the entry's rows with their multiply-adds, if the entry shows them."""
    changed: dict[str, Sequence[Result]] = {}
    if "multiply-adds" not in entry.under():
        return changed
    for part in entry.parts():
        for name in set(recipes_of(part, scale)) & set(results):
            seeds = [model for (other, _), model in models.items() if other == name]
            changed[name] = [
                replace(result, multiply_adds=_computed("operations", [model], load))
                for result, model in zip(results[name], seeds, strict=True)
            ]
    return changed


def _figure_data(entry: Entry, scale: Scale, models: Models, load: "_Loader") -> list[Any]:
    """Data of a figure beyond records, one item for each seed."""
    figure = entry.content
    if not isinstance(figure, Figure) or figure.needs is None:
        return []
    names = recipes_of(figure.part, scale)
    return [
        _computed(figure.needs, [models[name, seed] for name in names], load)
        for seed in _complete_seeds(names, models)
    ]


def _complete_seeds(names: Collection[str], models: Models) -> list[int]:
    """Seeds for which every one of these recipes has a model."""
    seeds = dict.fromkeys(seed for _, seed in models)
    return [seed for seed in seeds if all((name, seed) in models for name in names)]


def _computed(kind: str, models: Sequence[PlannedModel], load: "_Loader") -> Any:
    last = models[-1]
    return figure_data(
        kind,
        [model.folder for model in models],
        load(last.recipe.dataset).test,
        strongest=last.evaluation.epsilons[-1],
        seed=last.recipe.seed,
    )


class _Loader:
    """Loads each data set once."""

    def __init__(self) -> None:
        self.loaded: dict[str, DataSet] = {}

    def __call__(self, source: DataSource) -> DataSet:
        key = json.dumps(to_json(source), sort_keys=True)
        if key not in self.loaded:
            self.loaded[key] = source.load()
        return self.loaded[key]
