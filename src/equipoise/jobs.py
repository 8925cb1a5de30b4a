"""What a user asks for in one call: train a recipe, evaluate models, run the demo."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import nn

from equipoise import runs
from equipoise.data import DataSet, DataSource, Digits, Split
from equipoise.evaluation import insides, profile, record_of, suites_for
from equipoise.executors import execute
from equipoise.methods.stage import THREATS
from equipoise.models import load, save
from equipoise.models.folder import read_config
from equipoise.recipes import RECIPES, Evaluation, Recipe, from_json, to_json
from equipoise.runs import derive_seed
from equipoise.side_by_side import side_by_side
from equipoise.training import Reporter, Silent

DEMO = ("standard_digits", "pgd_at_digits", "afa_digits", "afs_digits")
RECIPE = "recipe.json"


def find_recipe(name: str) -> Recipe:
    """A recipe by its name, or from a file that a run left.

    Args:
        name: A name of ``equipoise list``, a ``recipe.json``, or a run folder that holds one.

    Returns:
        The recipe.

    Raises:
        ValueError: If there is no such recipe; the message names the nearest ones.
        RunError: If the file cannot be read.
    """
    if name in RECIPES:
        return RECIPES[name]()
    path = Path(name)
    if (path / RECIPE).is_file():
        path = path / RECIPE
    if path.is_file():
        try:
            found: Recipe = from_json(runs.read_json(path))
        except ValueError as error:
            raise runs.RunError(f"{path} is {error}") from error
        return found
    import difflib

    near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`equipoise list` names them all."
    raise ValueError(f"there is no recipe or recipe file {name!r}. {hint}")


def train(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    reporter: Reporter | None = None,
    dataset: DataSet | None = None,
) -> nn.Module:
    """Train a recipe into a run folder; all its finished and half-finished stages are re-used.

    Args:
        recipe: What to train.
        folder: The run folder.
        resume: Go on in a folder that already holds this recipe's run.
        reporter: Who is told.
        dataset: The recipe's data, if it is already loaded.

    Returns:
        The trained model in eval mode, as also saved under ``folder/model``.

    Raises:
        RunError: If the folder holds something and ``resume`` is not set, or another recipe's run.
        DataError: If the data cannot be read.
        TrainingError: If a stage cannot be trained.
        Interrupted: If the run was asked to stop.
    """
    content = to_json(recipe)
    _claim(folder, content, resume)
    dataset = dataset or recipe.dataset.load()
    runs.write_json(folder / RECIPE, content)
    runs.write_json(folder / "environment.json", runs.environment())
    fabric = Fabric(accelerator="auto", devices=1, precision=recipe.loop.precision)
    fabric.launch()
    model, ran = execute(
        recipe.method.stages(recipe.network.maker(dataset)),
        train=dataset.train,
        loop=recipe.loop,
        folder=folder,
        seed=recipe.seed,
        fabric=fabric,
        reporter=reporter,
    )
    if ran or not (folder / "model" / "config.json").exists():  # written last
        card = {
            "name": recipe.name,
            "data": dataset.name,
            "classes": list(dataset.class_names),
            "dataset": to_json(recipe.dataset),
            "evaluation": to_json(recipe.evaluation),
            "seed": recipe.seed,
            "validation_images": recipe.loop.validation_images,
            "commit": runs.commit(),
        }
        save(model, folder / "model", card)
    return model.eval()


def evaluate(
    folder: Path,
    *,
    evaluation: Evaluation | None = None,
    dataset: DataSet | None = None,
    data: Path | None = None,
    seed: int = 0,
    batch_size: int = 256,
    reporter: Reporter | None = None,
) -> tuple[dict[str, Any], Path]:
    """Evaluate a saved model and write the record beside it.

    Args:
        folder: A run folder or model folder.
        evaluation: What to try; by default what its recipe says.
        dataset: The data; by default what its recipe says.
        data: Folder of that data, if it lies elsewhere here.
        seed: Of the attacks' random starts.
        batch_size: Images attacked at once.
        reporter: Who is told.

    Returns:
        The record and where it was written.

    Raises:
        ModelFolderError: If the model cannot be loaded.
        DataError: If the data cannot be read.
        ValueError: If model and data do not fit.
    """
    reporter = reporter or Silent()
    place = folder / "model" if (folder / "model").is_dir() else folder
    card = read_config(place)["card"]
    model = load(place)
    if evaluation is None:
        evaluation = from_json(card["evaluation"], Evaluation)
    if dataset is None:
        dataset = _source_of(card, data).load()
    split = _part(dataset, card, evaluation.part)
    if evaluation.images is not None:
        split = split.take(slice(0, evaluation.images))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, split = model.to(device), split.to(device)
    suites = suites_for(
        model, evaluation.suites, steps=evaluation.steps, restarts=evaluation.restarts
    )
    reporter.begin(f"evaluate {card.get('name', place)}", 1000, 0)
    began = time.monotonic()
    found = profile(
        model,
        split,
        threat=THREATS[evaluation.norm],
        epsilons=evaluation.epsilons,
        suites=suites,
        seed=seed,
        batch_size=batch_size,
        report=lambda text, share: reporter.step(int(1000 * share), text),
    )
    reporter.step(1000, "done")
    record = record_of(
        found,
        model=card.get("name", place.name),
        data=dataset.name,
        part=evaluation.part,
        norm=evaluation.norm,
        suites=suites,
        seed=seed,
        seconds=time.monotonic() - began,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        extra={
            "training_seed": card.get("seed"),
            "training_commit": card.get("commit"),
            **insides(
                model,
                split,
                threat=THREATS[evaluation.norm],
                epsilons=found.epsilons,
                seed=seed,
            ),
        },
    )
    settings = to_json(evaluation)
    name = f"{record['model']}__seed{card.get('seed', 0)}"
    if seed or settings != card.get("evaluation"):  # another evaluation never replaces this one
        name += f"__{derive_seed(seed, json.dumps(settings)) % 16**6:06x}"
    name += ".json"
    path = (place.parent if place.name == "model" else place) / "records" / name
    runs.write_json(path, record)
    return record, path


def demo(
    folder: Path,
    *,
    seed: int = 0,
    workers: int | None = None,
    reporter: Callable[[str], Reporter] | None = None,
) -> list[dict[str, Any]]:
    """Train and evaluate the four demo recipes on digits; what is already there is re-used.

    Args:
        folder: Gets one run folder a recipe.
        seed: Of training.
        workers: Recipes trained at the same time, one thread each; by default one a core.
        reporter: Gives the reporter of a recipe.

    Returns:
        Four records.
    """
    found = side_by_side(
        {
            name: (_train_and_evaluate, (replace(RECIPES[name](), seed=seed), folder / name))
            for name in reversed(DEMO)  # the longest first
        },
        workers=workers or os.cpu_count() or 1,
        threads=1,
        reporter=reporter or (lambda name: Silent()),
    )
    return [found[name] for name in DEMO]


def _train_and_evaluate(recipe: Recipe, place: Path, *, reporter: Reporter) -> dict[str, Any]:
    train(recipe, place, resume=True, reporter=reporter)
    path = place / "records" / f"{recipe.name}__seed{recipe.seed}.json"
    return runs.read_record(path) if path.exists() else evaluate(place, reporter=reporter)[0]


def _part(dataset: DataSet, card: dict[str, Any], part: Literal["test", "validation"]) -> Split:
    """The images to evaluate on: test images, or those that were held out of this training."""
    if part == "test":
        return dataset.test
    if "validation_images" not in card or "seed" not in card:
        raise ValueError(
            "the model folder does not say which validation images were held out of its training; "
            "train it again with this version, or evaluate on the test part."
        )
    seed = derive_seed(card["seed"], "validation")
    return dataset.train.hold_out(card["validation_images"], seed)[1]


def _source_of(card: dict[str, Any], data: Path | None) -> DataSource:
    if "dataset" not in card:
        raise ValueError(
            "the model folder does not say which data it was trained on; evaluate it from Python "
            "with equipoise.evaluation.profile."
        )
    source: DataSource = from_json(card["dataset"], DataSource)
    if data is not None:
        source = with_folder(source, data)
    return source


def with_folder(source: DataSource, folder: Path) -> DataSource:
    """The same source, read from another folder.

    Raises:
        ValueError: If it is not read from a folder.
    """
    if isinstance(source, Digits):
        raise ValueError("Digits is not read from a folder, so --data has no meaning for it.")
    return replace(source, folder=folder.resolve())


def _claim(folder: Path, content: Any, resume: bool) -> None:
    """Refuse a folder that another run lives in."""
    if folder.exists() and not folder.is_dir():
        raise runs.RunError(f"{folder} is a file; choose another folder with --out.")
    if folder.exists():
        runs.clear_temporaries(folder)
    if not folder.exists() or not any(folder.iterdir()):
        return
    stored = folder / RECIPE
    if not stored.exists():
        raise runs.RunError(f"{folder} exists and is no run folder; choose another one with --out.")
    if not resume:
        raise runs.RunError(
            f"{folder} already holds a run. Go on with it by --resume, or choose another folder "
            "with --out."
        )
    before = runs.read_json(stored)
    if before != content:
        changed = ", ".join(_differences(before, content)) or "its fields"
        raise runs.RunError(
            f"{folder} holds a run of another recipe (differs in {changed}). Choose another folder "
            f"with --out, or go on with the stored one: equipoise train {stored} --out {folder} "
            "--resume."
        )


def _differences(before: Any, after: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        names = sorted(before.keys() | after.keys())
        return [
            found
            for name in names
            for found in _differences(
                before.get(name), after.get(name), f"{path}.{name}".strip(".")
            )
        ]
    return [] if before == after else [path]
