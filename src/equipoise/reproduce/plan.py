"""Which models a reproduction needs, and which of them share their earlier stages."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import compress
from pathlib import Path
from typing import Any

from equipoise.evaluation.work_unit import Precision
from equipoise.methods import AFA, AFS, Schedule, SingleNetwork
from equipoise.models.io.model_folder import CONFIG
from equipoise.objectives import PGDAT, TRADES, Standard
from equipoise.recipes import RECIPES, Evaluation, Recipe, to_json
from equipoise.records.files import read_record
from equipoise.report.papers import Entry, Scale, recipes_of
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import PART, read_json, write_json
from equipoise.training import is_done
from equipoise.workflows.datasets import with_folder
from equipoise.workflows.evaluate import settings_of
from equipoise.workflows.resume_checks import RECIPE, differences

SURROGATE = "surrogate_{}"
"""The recipe of the network from which black-box attacks are transferred."""
LATER_STAGE_FIELDS = {
    AFA: {"gate", "gate_schedule", "soup"},
    AFS: {"mask", "merger", "merger_schedule", "alpha", "merger_epsilon", "split_batch"},
}
"""Fields of a method that its earlier stages do not depend on."""
NOT_TRAINING_FIELDS = ("evaluation", "dataset.folder", "dataset.path")
"""Fields of a recipe that say nothing of how it was trained."""
SHARED = ("dataset", "network", "loop")
"""Fields of a recipe that all stages depend on, beside the seed."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model that is needed.

    Args:
        recipe: What is trained.
        evaluation: How it is judged.
        place: Its run folder.
        search_precision: Of the attacks' searches.
        shown: Whether a row or a figure shows it; others are stacked, and not judged.
    """

    recipe: Recipe
    evaluation: Evaluation
    place: Path
    search_precision: Precision = "32-true"
    shown: bool = True

    def trained(self) -> bool:
        """Whether its run folder holds the finished model."""
        return (self.place / "model" / CONFIG).exists()

    def is_made(self) -> bool:
        """Whether it is trained, and judged if it is shown."""
        return self.record() is not None if self.shown else self.trained()

    def check(self) -> None:
        """Refuse a finished run of another recipe in its place.

        Raises:
            RunError: If there is one; it names the fields that differ.
        """
        if not self.trained():
            return
        found = differences(self.place, to_json(self.recipe))
        changed = [name for name in found if not name.startswith(NOT_TRAINING_FIELDS)]
        if changed:
            raise RunError(
                f"{self.place} was trained by another recipe than today's {self.recipe.name} "
                f"(differs in {', '.join(changed)}). Choose another --out, or move it away."
            )

    def record(self, surrogate: Path | None = None) -> dict[str, Any] | None:
        """Its record, if it was judged just so; with a surrogate, that of the transfer attack."""
        wanted = self.settings(surrogate)
        paths = sorted((self.place / "records").glob("*.json")) if self.trained() else ()
        for path in paths:
            if read_json(path).get("settings") == wanted:
                return read_record(path)
        return None

    def asked(self, surrogate: Path | None) -> Evaluation:
        """How it is judged; with a surrogate, by the transfer attack alone."""
        if surrogate is None:
            return self.evaluation
        return replace(self.evaluation, suites=("transfer",))

    def settings(self, surrogate: Path | None) -> list[Any]:
        """What its record says it was asked."""
        return settings_of(
            self.asked(surrogate),
            search_precision=self.search_precision,
            surrogates=() if surrogate is None else (surrogate,),
        )


Models = dict[tuple[str, int], Model]
Surrogates = dict[tuple[str, int], Model]


def needed(
    entries: Sequence[Entry], scale: Scale, seeds: Sequence[int], folder: Path, data: Path | None
) -> tuple[Models, Surrogates]:
    """Every model that entries show.

    Args:
        entries: Tables and figures.
        scale: How large.
        seeds: Of training, one model each.
        folder: Of the reproduction at this scale.
        data: Folder of the data set, if the recipes need one.

    Returns:
        Models by recipe and seed; and, for those to which attacks are transferred, the surrogate.

    Raises:
        ValueError: If a recipe does not exist, or its data are not read from a folder.
    """
    names: dict[str, str | None] = {}
    for entry in entries:
        for part in entry.parts():
            surrogate = None
            if "transfer" in entry.under() and part.data in scale.places:
                surrogate = SURROGATE.format(scale.places[part.data])
            for name in recipes_of(part, scale):
                names[name] = surrogate or names.get(name)
            if surrogate is not None:
                names[surrogate] = None
    shown = frozenset(names)
    for name in tuple(names):
        for extractor in _stacked(name, scale):
            names.setdefault(extractor, None)
    missing = [name for name in names if name not in RECIPES]
    if missing:
        raise ValueError(
            f"scale {scale.name} has no recipe {', '.join(missing)} yet; leave out what needs it, "
            "or take another --scale."
        )
    models = {
        (name, seed): replace(_model(name, seed, scale, folder, data), shown=name in shown)
        for name in names
        for seed in seeds
    }
    surrogates = {
        (name, seed): models[surrogate, seed]
        for name, surrogate in names.items()
        if surrogate is not None
        for seed in seeds
    }
    return models, surrogates


def _model(name: str, seed: int, scale: Scale, folder: Path, data: Path | None) -> Model:
    recipe = replace(RECIPES[name](), seed=seed)
    if data is not None:
        own = data / type(recipe.dataset).__name__.lower()
        folder_of_data = own if own.is_dir() else data
        recipe = replace(recipe, dataset=with_folder(recipe.dataset, folder_of_data))
    if scale.epochs is not None:
        recipe = _with_epochs(recipe, scale.epochs)
    places = (_place(folder, each, seed) for each in _extractors(name, scale))
    members: Any = tuple(str(place.resolve()) for place in places)
    if members:
        recipe = replace(recipe, method=replace(recipe.method, extractors=members))
    evaluation = replace(recipe.evaluation, **scale.evaluation)
    return Model(
        recipe=recipe,
        evaluation=evaluation,
        place=_place(folder, name, seed),
        search_precision=scale.search_precision,
    )


def _place(folder: Path, name: str, seed: int) -> Path:
    return folder / "runs" / f"{name}__seed{seed}"


def _extractors(name: str, scale: Scale) -> tuple[str, ...]:
    """For a recipe of AFS, recipes that train its extractors as single networks.

    Args:
        name: Of the recipe.
        scale: Names single networks.

    Returns:
        One a budget; nothing if any is missing, and for other methods.
    """
    recipe = RECIPES[name]() if name in RECIPES else None
    if recipe is None or not isinstance(recipe.method, AFS):
        return ()
    singles = {each: RECIPES[each]() for each in scale.extractors}
    found = [
        next((each for each, one in singles.items() if _trains(one, recipe, budget)), None)
        for budget in recipe.method.budgets
    ]
    return () if None in found else tuple(filter(None, found))


def _stacked(name: str, scale: Scale) -> tuple[str, ...]:
    """Those of ``_extractors`` that are in the recipe's mask."""
    found = _extractors(name, scale)
    method = RECIPES[name]().method if found else None
    return tuple(compress(found, method.selected())) if isinstance(method, AFS) else ()


def _trains(single: Recipe, stack: Recipe, budget: float) -> bool:
    """Whether a single network is trained as a stack's extractor of a budget is."""
    one, all_of_them = single.method, stack.method
    assert isinstance(one, SingleNetwork)
    assert isinstance(all_of_them, AFS)
    same = {"epsilon": budget, "schedule": all_of_them.schedule, "norm": all_of_them.norm}
    same |= {"attack": all_of_them.attack} if budget > 0 else {}
    losses: tuple[Any, ...] = (all_of_them.objective,)
    if budget == 0 and isinstance(all_of_them.objective, PGDAT | TRADES):
        losses += (Standard(),)  # what these are without an attack
    return (
        not one.random_budgets
        and one.objective in losses
        and all(getattr(one, key) == value for key, value in same.items())
        and all(getattr(single, key) == getattr(stack, key) for key in SHARED)
    )


def _with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    method: Any = recipe.method
    changes = {
        field.name: replace(schedule, epochs=min(epochs, schedule.epochs))
        for field in fields(method)
        if isinstance(schedule := getattr(method, field.name), Schedule)
    }
    return replace(recipe, method=replace(method, **changes))


def _trunk(model: Model) -> str | None:
    """What the stages before a model's last one depend on; equal for models that share them."""
    later = LATER_STAGE_FIELDS.get(type(model.recipe.method))
    if later is None or stacks(model):
        return None
    content = to_json(model.recipe)
    method = {key: value for key, value in content["method"].items() if key not in later}
    kept = {key: content[key] for key in (*SHARED, "seed")}
    return json.dumps([method, kept], sort_keys=True)


def finished(models: Models, surrogates: Surrogates) -> tuple[Models, Surrogates]:
    """Of what ``needed`` gives, what is trained and judged already."""
    there = {key: model for key, model in models.items() if model.shown and model.is_made()}
    trained = {key: model for key, model in surrogates.items() if key in there and model.trained()}
    return there, trained


def stacks(model: Model) -> bool:
    """Whether it stacks networks that are models of their own, and trains nothing but a merger."""
    return bool(getattr(model.recipe.method, "extractors", ()))


def leaders(models: Models) -> dict[tuple[str, int], Model]:
    """For each model whose earlier stages another one trains as well, that other one."""
    first: dict[str, Model] = {}
    for model in models.values():
        trunk = _trunk(model)
        if trunk is not None and (trunk not in first or _size(model) > _size(first[trunk])):
            first[trunk] = model
    found = {key: first.get(_trunk(model) or "") for key, model in models.items()}
    return {
        key: leader
        for key, leader in found.items()
        if leader is not None and leader is not models[key]
    }


def _size(model: Model) -> tuple[bool, int]:
    """Finished models lead, then those with the most stages."""
    mask = getattr(model.recipe.method, "mask", None)
    return model.trained(), 10**6 if mask is None else mask.count("1")


def share_stages(leader: Model, model: Model) -> None:
    """Copy the leader's finished stages that the model has too, each whole or not at all."""
    write_json(model.place / RECIPE, to_json(model.recipe))
    plan = model.recipe.method.stages(_never)
    for stage in plan[:-1]:
        source, target = (each.place / "stages" / stage.name for each in (leader, model))
        if is_done(source) and not target.exists():
            half = target.with_name(target.name + PART)
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(source, half, ignore=shutil.ignore_patterns("checkpoint*"))
            half.rename(target)


def _never() -> Any:
    raise AssertionError("the names of stages need no network")
