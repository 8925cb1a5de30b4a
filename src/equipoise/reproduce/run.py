"""Make tables and figures of the papers again: train what is missing, judge it, draw.

A reproduction's folder::

    runs/reproduce/<scale>/
      README.md                 every table and figure made so far
      <entry>.md, .csv, .tex    a table;  .svg, .png, .pdf, .md a figure and its caption
      runs/<recipe>__seed<n>/   run folders, each model once, whatever needs it

A model that has its run folder is not trained again, nor evaluated if its record answers to the
same settings. Recipes that differ in their last stage alone share the stages before it.
"""

import json
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from equipoise.data import DataSet, DataSource
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
    Model,
    Models,
    Surrogates,
    finished,
    leaders,
    needed,
    share_stages,
    stacks,
)
from equipoise.runtime.reporter import NullReporter, Reporter
from equipoise.workflows.evaluate import evaluate
from equipoise.workflows.train import train


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a reproduction made.

    Args:
        entries: Tables and figures.
        results: Measured values, by recipe.
        files: Where everything was written.
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
    only_finished: bool = False,
    reporter: Callable[[str], Reporter] | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> Made:
    """Make tables and figures again.

    Args:
        names: Of entries; ``"all"`` for every one.
        scale: How large.
        seeds: Of training, one model each.
        out: Gets a folder for the scale.
        data: Folder of the data set, or one that holds a folder for each: ``cifar10``, ``svhn``.
        workers: Models trained at the same time; by default one a core, or one on a GPU.
        only_finished: Train and judge nothing. Rows that are not made yet stand with their
            published values alone; entries of which nothing is made are left out.
        reporter: Gives the reporter of a piece of work.
        log: Told what is left to do, and how long it may take, before it begins.

    Returns:
        What was made.

    Raises:
        ValueError: If there is no such entry, no recipe for it at this scale, or no seed.
        DataError: If the data cannot be read.
        Interrupted: If it was asked to stop; the same call goes on.
        RunError: If a file cannot be read or written.
    """
    entries: Sequence[Entry] = find_entries(names)
    if not seeds:
        raise ValueError("seeds must name at least one seed, got none.")
    folder = out / scale.name
    models, surrogates = needed(entries, scale, seeds, folder, data)
    for model in models.values():
        model.check()
    load = _Loader()
    if only_finished:
        models, surrogates = finished(models, surrogates)
        entries = _drawable(entries, scale, models, log)
    else:
        workers = workers or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
        _announce(models, surrogates, load, workers, log)
        _run(models, surrogates, workers, reporter or (lambda name: NullReporter()))
    results: dict[str, Sequence[Result]] = {**_results(models, surrogates)}
    files: list[Path] = []
    for entry in entries:
        mine = _with_operations(entry, scale, results, models, load)
        found = _data_of(entry, scale, models, load)
        files += write_entry(entry, scale, mine, found, folder)
        results.update(mine)
    files.append(write_index(list(ENTRIES.values()), scale, folder))
    return Made(entries=tuple(entries), results=results, files=tuple(files))


def _drawable(
    entries: Sequence[Entry], scale: Scale, models: Models, log: Callable[[str], None]
) -> tuple[Entry, ...]:
    """Entries of which something is made; figures that look into their models need all of them."""
    made, found = {name for name, _ in models}, []
    for entry in entries:
        names = {name for part in entry.parts() for name in recipes_of(part, scale)}
        enough = _whole_seeds(names, models) if entry.looks_inside() else names & made
        if enough or not names:
            found.append(entry)
        else:
            waited_for = names - made or names
            log(f"{entry.name} waits for {', '.join(sorted(waited_for))}")
    return tuple(found)


def _announce(
    models: Models,
    surrogates: Surrogates,
    load: "_Loader",
    workers: int,
    log: Callable[[str], None],
) -> None:
    """Say what is left, and how long it may take."""
    sharing, total = leaders(models), 0.0
    rates: dict[Any, float] = {}
    for (name, seed), model in models.items():
        key, surrogate = (name, seed), surrogates.get((name, seed))
        to_train, to_judge = not model.trained(), model.shown and model.record() is None
        to_transfer = surrogate is not None and model.record(surrogate.place) is None
        if not (to_train or to_judge or to_transfer):
            continue
        dataset = load(model.recipe.dataset)
        kind = (model.recipe.network, dataset.name)
        if kind not in rates:
            rates[kind] = seconds_a_pass(model.recipe, dataset)
        passes = to_train * training_passes(
            model.recipe, dataset, shared=key in sharing or stacks(model)
        )
        passes += to_judge * evaluation_passes(model.recipe, model.evaluation, dataset)
        seconds = passes * rates[kind]
        total += seconds
        work = ["train"] * to_train + ["evaluate"] * to_judge + ["transfer"] * to_transfer
        log(f"{name}, seed {seed}: {', '.join(work)}, up to {_minutes(seconds)}")
    if total:
        log(f"all of it: up to {_minutes(total / workers)} with {workers} at a time")


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _run(
    models: Models,
    surrogates: Surrogates,
    workers: int,
    reporter: Callable[[str], Reporter],
) -> None:
    """Train and judge what is left: leaders, then those that share their stages, then transfer."""
    sharing = leaders(models)
    # Two waves: the second takes stages, extractors or images from models of the first.
    first: dict[str, Any] = {}
    second: dict[str, Any] = {}
    for key, model in models.items():
        if not model.is_made():
            wave = second if key in sharing or stacks(model) else first
            wave[_label(key)] = (_train_and_judge, (model, sharing.get(key)))
    second |= {
        f"{_label(key)} transfer": (_judge, (models[key], surrogate.place))
        for key, surrogate in surrogates.items()
        if models[key].record(surrogate.place) is None
    }
    threads = max(1, (os.cpu_count() or 1) // workers)
    for work in filter(None, (first, second)):
        side_by_side(work, workers=workers, threads=threads, reporter=reporter)


def _label(key: tuple[str, int]) -> str:
    return f"{key[0]} {key[1]}"


def _train_and_judge(model: Model, leader: Model | None, *, reporter: Reporter) -> None:
    if leader is not None and not model.trained():
        share_stages(leader, model)
    train(model.recipe, model.place, resume=True, reporter=reporter)
    if model.shown:
        _judge(model, None, reporter=reporter)


def _judge(model: Model, surrogate: Path | None, *, reporter: Reporter) -> None:
    evaluate(
        model.place,
        evaluation=model.asked(surrogate),
        data=_folder(model),
        surrogates=() if surrogate is None else (surrogate,),
        search_precision=model.search_precision,
        checks=False,
        reporter=reporter,
    )


def _folder(model: Model) -> Path | None:
    folder: Path | None = getattr(model.recipe.dataset, "folder", None)
    return folder


def _results(models: Models, surrogates: Surrogates) -> dict[str, tuple[Result, ...]]:
    found: dict[str, tuple[Result, ...]] = {}
    for (name, seed), model in models.items():
        record = model.record()
        if record is None:  # only stacked
            continue
        surrogate = surrogates.get((name, seed))
        result = Result(
            recipe=to_json(model.recipe),
            record=record,
            transfer=None if surrogate is None else model.record(surrogate.place),
        )
        found[name] = (*found.get(name, ()), result)
    return found


def _with_operations(
    entry: Entry, scale: Scale, results: Results, models: Models, load: "_Loader"
) -> Results:
    """The same results, those of the entry's rows with their multiply-adds if it shows them."""
    if "multiply-adds" not in entry.under():
        return results
    changed = dict(results)
    for part in entry.parts():
        for name in set(recipes_of(part, scale)) & set(results):
            mine = [model for (other, _), model in models.items() if other == name]
            changed[name] = [
                replace(result, multiply_adds=_data("operations", [model], load))
                for result, model in zip(results[name], mine, strict=True)
            ]
    return changed


def _data_of(entry: Entry, scale: Scale, models: Models, load: "_Loader") -> list[Any]:
    """What a figure needs beyond records, one a seed."""
    figure = entry.content
    if not isinstance(figure, Figure) or figure.needs is None:
        return []
    names = recipes_of(figure.part, scale)
    return [
        _data(figure.needs, [models[name, seed] for name in names], load)
        for seed in _whole_seeds(names, models)
    ]


def _whole_seeds(names: Collection[str], models: Models) -> list[int]:
    """Seeds of which every one of these models is there."""
    seeds = dict.fromkeys(seed for _, seed in models)
    return [seed for seed in seeds if all((name, seed) in models for name in names)]


def _data(kind: str, models: Sequence[Model], load: "_Loader") -> Any:
    last = models[-1]
    return figure_data(
        kind,
        [model.place for model in models],
        load(last.recipe.dataset).test,
        strongest=last.evaluation.epsilons[-1],
        seed=last.recipe.seed,
    )


class _Loader:
    """Data sets, each read once."""

    def __init__(self) -> None:
        self.known: dict[str, DataSet] = {}

    def __call__(self, source: DataSource) -> DataSet:
        key = json.dumps(to_json(source), sort_keys=True)
        if key not in self.known:
            self.known[key] = source.load()
        return self.known[key]
