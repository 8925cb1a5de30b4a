"""Plan a reproduction: the models it needs, and which of them share their earlier stages."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import compress
from pathlib import Path
from typing import Any

from equipoise.api.evaluation_settings import EvaluationSettings
from equipoise.api.resume_checks import differences
from equipoise.data.formats import located
from equipoise.evaluation import SuiteName
from equipoise.evaluation.work_unit import Precision
from equipoise.methods import AFA, AFS, SingleNetwork
from equipoise.models.io.model_folder import CONFIG
from equipoise.objectives import PGDAT, TRADES, Standard
from equipoise.recipes import RECIPES, Evaluation, Recipe, to_json
from equipoise.records.files import read_record
from equipoise.report.papers import Entry, Scale, recipes_of
from equipoise.runtime.errors import InvalidInput, RunError
from equipoise.runtime.files import PART, read_json, write_json
from equipoise.runtime.run_folder import RunFolder
from equipoise.training import is_done
from equipoise.training.schedule import Schedule

SURROGATE = "surrogate_{}"
"""Recipe of the network on which images of the transfer attack are made."""
LATER_STAGE_FIELDS = {
    AFA: {"gate", "gate_schedule", "soup"},
    AFS: {"mask", "merger", "merger_schedule", "alpha", "merger_epsilon", "split_batch"},
}
"""Fields of a method that its earlier stages do not depend on."""
NOT_TRAINING_FIELDS = ("evaluation", "dataset.folder", "dataset.path")
"""Fields of a recipe that do not affect training."""
SHARED = ("dataset", "network", "loop")
"""Fields of a recipe that all stages depend on, besides the seed."""


@dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """One model that a reproduction needs.

    Args:
        recipe: Recipe of its training.
        evaluation: Settings of its evaluation.
        folder: Its run folder.
        search_precision: Precision of the attacks' searches.
        shown: Whether a row or a figure shows it. Others are only members of a stack, and are not
            evaluated.
        apart: Suites with a record of their own.
    """

    recipe: Recipe
    evaluation: Evaluation
    folder: Path
    search_precision: Precision = "32-true"
    shown: bool = True
    apart: tuple[SuiteName, ...] = ()

    def is_trained(self) -> bool:
        """Whether its run folder holds the finished model."""
        return (self.folder / "model" / CONFIG).exists()

    def is_finished(self) -> bool:
        """Whether it is trained, and evaluated if it is shown."""
        return self.record() is not None if self.shown else self.is_trained()

    def check_recipe(self) -> None:
        """Reject a run folder that holds a finished run of another recipe.

        Raises:
            RunError: If it does; the message names the fields that differ.
        """
        if not self.is_trained():
            return
        names = differences(self.folder, to_json(self.recipe))
        changed = [name for name in names if not name.startswith(NOT_TRAINING_FIELDS)]
        if changed:
            raise RunError(
                f"{self.folder} was trained with a recipe other than the current "
                f"{self.recipe.name} (differs in {', '.join(changed)}). Choose another --out, or "
                "move the folder away."
            )

    def record(
        self, surrogate: Path | None = None, apart: SuiteName | None = None
    ) -> dict[str, Any] | None:
        """Record of an evaluation with exactly these settings, if there is one.

        Args:
            surrogate: Run folder of the surrogate, for the record of the transfer attack.
            apart: The only suite of the record, one of ``apart``.
        """
        settings = self.settings(surrogate, apart)
        paths = sorted((self.folder / "records").glob("*.json")) if self.is_trained() else ()
        for path in paths:
            if read_json(path).get("settings") == settings:
                return read_record(path)
        return None

    def evaluation_for(self, surrogate: Path | None, apart: SuiteName | None = None) -> Evaluation:
        """Settings of its evaluation; of the transfer attack or of one suite alone if asked."""
        only = apart if surrogate is None else "transfer"
        return self.evaluation if only is None else replace(self.evaluation, suites=(only,))

    def settings(self, surrogate: Path | None, apart: SuiteName | None = None) -> list[Any]:
        """Settings as its record holds them."""
        return EvaluationSettings(
            evaluation=self.evaluation_for(surrogate, apart),
            search_precision=self.search_precision,
            surrogates=() if surrogate is None else (surrogate,),
        ).to_json()


Models = dict[tuple[str, int], PlannedModel]
"""Models by recipe and seed."""


def plan_models(
    entries: Sequence[Entry], scale: Scale, seeds: Sequence[int], folder: Path, data: Path | None
) -> tuple[Models, Models]:
    """Find every model that entries show.

    Args:
        entries: Tables and figures.
        scale: Scale of the reproduction.
        seeds: Training seeds, one model each.
        folder: Folder of the reproduction at this scale.
        data: Folder of the data set, if the recipes need one.

    Returns:
        The models by recipe and seed; and the surrogate of each model that a transfer attack
        evaluates, by the recipe and seed of that model.

    Raises:
        ValueError: If a recipe does not exist, or its data are not read from a folder.
    """
    surrogate_of: dict[str, str | None] = {}
    apart: dict[str, tuple[Any, ...]] = {}
    for entry in entries:
        for part in entry.parts():
            surrogate = None
            if "transfer" in entry.under() and part.data in scale.datasets:
                surrogate = SURROGATE.format(scale.datasets[part.data])
            for name in recipes_of(part, scale):
                surrogate_of[name] = surrogate or surrogate_of.get(name)
                apart[name] = apart.get(name, ()) or entry.suites_apart()
            if surrogate is not None:
                surrogate_of[surrogate] = None
    shown = frozenset(surrogate_of)
    for name in tuple(surrogate_of):
        for extractor in _stacked(name, scale):
            surrogate_of.setdefault(extractor, None)
    missing = [name for name in surrogate_of if name not in RECIPES]
    if missing:
        raise InvalidInput(
            f"scale {scale.name} has no recipe {', '.join(missing)} yet; leave out the entries "
            "that need it, or choose another --scale."
        )
    models = {
        (name, seed): replace(
            _model(name, seed, scale, folder, data),
            shown=name in shown,
            apart=apart.get(name, ()) if isinstance(RECIPES[name]().method, AFA) else (),
        )
        for name in surrogate_of
        for seed in seeds
    }
    surrogates = {
        (name, seed): models[surrogate, seed]
        for name, surrogate in surrogate_of.items()
        if surrogate is not None
        for seed in seeds
    }
    return models, surrogates


def finished_models(models: Models, surrogates: Models) -> tuple[Models, Models]:
    """Keep the models that are trained and evaluated already.

    Args:
        models: Models by recipe and seed, from ``plan_models``.
        surrogates: Surrogates by recipe and seed, from ``plan_models``.

    Returns:
        The finished models that are shown, and the trained surrogates of these.
    """
    finished = {key: model for key, model in models.items() if model.shown and model.is_finished()}
    trained = {
        key: surrogate
        for key, surrogate in surrogates.items()
        if key in finished and surrogate.is_trained()
    }
    return finished, trained


def is_stack_of_models(model: PlannedModel) -> bool:
    """Whether it stacks networks that are models of their own, and trains only a merger."""
    return bool(getattr(model.recipe.method, "extractors", ()))


def stage_sources(models: Models) -> dict[tuple[str, int], PlannedModel]:
    """For each model that shares its earlier stages with others, the model to copy them from.

    Args:
        models: Models by recipe and seed.

    Returns:
        The source by recipe and seed of the model that copies; a source itself has none.
    """
    sources: dict[str, PlannedModel] = {}
    for model in models.values():
        stages = _earlier_stages(model)
        best = sources.get(stages or "")
        if stages is not None and (best is None or _priority(model) > _priority(best)):
            sources[stages] = model
    source_of = {key: sources.get(_earlier_stages(model) or "") for key, model in models.items()}
    return {
        key: source
        for key, source in source_of.items()
        if source is not None and source is not models[key]
    }


def copy_earlier_stages(source: PlannedModel, model: PlannedModel) -> None:
    """Copy the finished stages that a model shares with a source, each completely or not at all.

    Args:
        source: Model whose stages are copied.
        model: Model that needs them.
    """
    write_json(RunFolder(model.folder).recipe, to_json(model.recipe))
    plan = model.recipe.method.stages(_no_network)
    for stage in plan[:-1]:
        finished, copy = (RunFolder(m.folder).stage(stage.name) for m in (source, model))
        if is_done(finished) and not copy.exists():
            partial = copy.with_name(copy.name + PART)
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(finished, partial, ignore=shutil.ignore_patterns("checkpoint*"))
            partial.rename(copy)


def _model(name: str, seed: int, scale: Scale, folder: Path, data: Path | None) -> PlannedModel:
    recipe = replace(RECIPES[name](), seed=seed)
    if data is not None:
        subfolder = data / type(recipe.dataset).__name__.lower()
        folder_of_data = subfolder if subfolder.is_dir() else data
        recipe = replace(recipe, dataset=located(recipe.dataset, folder_of_data))
    if scale.epochs is not None:
        recipe = _with_epochs(recipe, scale.epochs)
    folders = (_run_folder(folder, extractor, seed) for extractor in _extractors(name, scale))
    members: Any = tuple(str(member.resolve()) for member in folders)
    if members:
        recipe = replace(recipe, method=replace(recipe.method, extractors=members))
    return PlannedModel(
        recipe=recipe,
        evaluation=replace(recipe.evaluation, **scale.evaluation),
        folder=_run_folder(folder, name, seed),
        search_precision=scale.search_precision,
    )


def _run_folder(folder: Path, name: str, seed: int) -> Path:
    return folder / "runs" / f"{name}__seed{seed}"


def _extractors(name: str, scale: Scale) -> tuple[str, ...]:
    """For a recipe of AFS, recipes of single networks that equal its extractors.

    Args:
        name: Name of the recipe.
        scale: Scale that lists the single networks.

    Returns:
        One recipe for each budget; empty if any is missing, and for other methods.
    """
    recipe = RECIPES[name]() if name in RECIPES else None
    if recipe is None or not isinstance(recipe.method, AFS):
        return ()
    singles = {single: RECIPES[single]() for single in scale.extractors}
    chosen = [
        next(
            (s for s, single in singles.items() if _equals_extractor(single, recipe, budget)), None
        )
        for budget in recipe.method.budgets
    ]
    return () if None in chosen else tuple(filter(None, chosen))


def _stacked(name: str, scale: Scale) -> tuple[str, ...]:
    """Recipes from ``_extractors`` that are in the recipe's mask."""
    extractors = _extractors(name, scale)
    method = RECIPES[name]().method if extractors else None
    return tuple(compress(extractors, method.selected())) if isinstance(method, AFS) else ()


def _equals_extractor(single: Recipe, stack: Recipe, budget: float) -> bool:
    """Whether a single network is trained exactly as a stack's extractor of a budget."""
    network, afs = single.method, stack.method
    assert isinstance(network, SingleNetwork)
    assert isinstance(afs, AFS)
    required = {"epsilon": budget, "schedule": afs.schedule, "norm": afs.norm}
    required |= {"attack": afs.attack} if budget > 0 else {}
    objectives: tuple[Any, ...] = (afs.objective,)
    if budget == 0 and isinstance(afs.objective, PGDAT | TRADES):
        objectives += (Standard(),)  # both equal it without an attack
    return (
        not network.random_budgets
        and network.objective in objectives
        and all(getattr(network, key) == value for key, value in required.items())
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


def _earlier_stages(model: PlannedModel) -> str | None:
    """Key of the stages before a model's last one; equal for models that share them."""
    later = LATER_STAGE_FIELDS.get(type(model.recipe.method))
    if later is None or is_stack_of_models(model):
        return None
    content = to_json(model.recipe)
    method = {key: value for key, value in content["method"].items() if key not in later}
    shared = {key: content[key] for key in (*SHARED, "seed")}
    return json.dumps([method, shared], sort_keys=True)


def _priority(model: PlannedModel) -> tuple[bool, int]:
    """Sources are finished models first, then those with the most stages."""
    mask = getattr(model.recipe.method, "mask", None)
    return model.is_trained(), 10**6 if mask is None else mask.count("1")


def _no_network() -> Any:
    raise AssertionError("the names of stages need no network")
