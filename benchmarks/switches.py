"""Measure the switches that no recipe sets, one at a time, on digits.

Each switch changes one field of a recipe; base and variant are trained with the same three seeds
and evaluated on the validation images held out of their own training, so test images choose
nothing. The record holds clean accuracy, accuracy at the strongest epsilon (worst case per image
over the recipe's suites) and their differences from the base, seed by seed.

Run it from the repository: ``python benchmarks/switches.py`` (about 40 minutes of one core; run
again, it resumes). ``--page`` only writes the table of docs/switches.md from the record.
"""

import argparse
import os
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from equipoise.api.evaluate import evaluate
from equipoise.api.train import train
from equipoise.execution.process_pool import side_by_side
from equipoise.recipes import RECIPES, Evaluation, Recipe
from equipoise.records.files import read_record
from equipoise.runtime.environment import environment
from equipoise.runtime.files import read_json, write_bytes, write_json
from equipoise.runtime.reporter import NullReporter, Reporter

ROOT = Path(__file__).resolve().parents[1]
RECORD = Path(__file__).with_suffix(".json")
PAGE = ROOT / "docs" / "switches.md"
BEGIN, END = "<!-- switches -->\n", "<!-- end switches -->\n"
SEEDS = (200, 201, 202)
EVALUATION = Evaluation(epsilons=(0.0, 0.2), steps=10, part="validation")
SWITCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "TrainingConfig.averaging ema": ("pgd_at_digits", {"loop.averaging": "ema"}),
    "TrainingConfig.averaging swa": ("pgd_at_digits", {"loop.averaging": "swa"}),
    "TrainingConfig.awp_gamma 0.005": ("pgd_at_digits", {"loop.awp_gamma": 0.005}),
    "TrainingConfig.awp_gamma 0.005, awp_start 0.5": (
        "pgd_at_digits",
        {"loop.awp_gamma": 0.005, "loop.awp_start": 0.5},
    ),
    "PGDAT.label_smoothing 0.1": ("pgd_at_digits", {"method.objective.label_smoothing": 0.1}),
    "Standard.label_smoothing 0.1": ("standard_digits", {"method.objective.label_smoothing": 0.1}),
    "TrainingAttack.mode train": ("pgd_at_digits", {"method.attack.mode": "train"}),
    "TrainingAttack.random_start False": ("pgd_at_digits", {"method.attack.random_start": False}),
    "TrainingAttack.warm_up 0.3": ("pgd_at_digits", {"method.attack.warm_up": 0.3}),
    "Schedule.nesterov True": ("pgd_at_digits", {"method.schedule.nesterov": True}),
    "Schedule.clip_norm 1": ("pgd_at_digits", {"method.schedule.clip_norm": 1.0}),
    "WideResNetShape.activation silu": ("pgd_at_digits", {"network.activation": "silu"}),
    "AFA.reduction sum": ("afa_digits", {"method.reduction": "sum"}),
    "AFS.split_batch True": ("afs_digits", {"method.split_batch": True}),
    "TRADES.beta 3": ("trades_digits", {"method.objective.beta": 3.0}),
}
"""By name: the recipe, and the fields that are changed in it."""


def changed(value: Any, path: str, new: Any) -> Any:
    """A copy of nested frozen dataclasses with one field replaced."""
    name, _, rest = path.partition(".")
    if not is_dataclass(value) or name not in {field.name for field in fields(value)}:
        raise ValueError(f"{type(value).__name__} has no field {name}; correct SWITCHES.")
    return replace(value, **{name: changed(getattr(value, name), rest, new) if rest else new})  # type: ignore[type-var]


def variants() -> dict[str, Recipe]:
    """Every base recipe and every switched one by its name."""
    recipes = {base: RECIPES[base]() for base, _ in SWITCHES.values()}
    for name, (base, fields_changed) in SWITCHES.items():
        recipe = RECIPES[base]()
        for path, value in fields_changed.items():
            recipe = changed(recipe, path, value)
        recipes[name] = recipe
    return {
        name: replace(recipe, name=folder_of(name), evaluation=EVALUATION)
        for name, recipe in recipes.items()
    }


def folder_of(name: str) -> str:
    """A folder name for a variant."""
    return "".join(character if character.isalnum() else "_" for character in name).lower()


def measure(recipe: Recipe, folder: Path, *, reporter: Reporter) -> list[float]:
    """Clean and strongest accuracy of one variant with one seed."""
    path = folder / "records" / f"{recipe.name}__seed{recipe.seed}.json"
    if not path.exists():
        train(recipe, folder, resume=folder.exists(), reporter=reporter)
        evaluate(folder, checks=False, reporter=reporter)
    accuracy = read_record(path)["headline"]["accuracy"]
    return [accuracy[0], accuracy[-1]]


def rows(scores: dict[str, list[list[float]]]) -> list[dict[str, Any]]:
    """For every switch: accuracies, and differences from the base in points, seed by seed."""
    table = []
    for name, (base, _) in SWITCHES.items():
        pairs = list(zip(scores[name], scores[base], strict=True))
        differences = [[100 * (a - b) for a, b in zip(*pair, strict=True)] for pair in pairs]
        table.append(
            {
                "switch": name,
                "recipe": base,
                "accuracy": scores[name],
                "difference": [[round(value, 2) for value in row] for row in differences],
            }
        )
    return table


def table_of(record: dict[str, Any]) -> str:
    """The record as a Markdown table: means and ranges over the seeds."""
    lines = ["| switch | recipe | clean | ε = 0.2 |", "|---|---|---:|---:|"]
    for row in record["switches"]:
        cells = []
        for column in (0, 1):
            values = [difference[column] for difference in row["difference"]]
            cells.append(f"{mean(values):+.1f} ({min(values):+.1f} to {max(values):+.1f})")
        lines.append(f"| {row['switch']} | `{row['recipe']}` | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def write_page(record: dict[str, Any]) -> None:
    """Replace the table between the markers of docs/switches.md."""
    text = PAGE.read_text()
    head, rest = text.split(BEGIN)
    write_bytes(PAGE, (head + BEGIN + table_of(record) + END + rest.split(END)[1]).encode())


def main() -> None:
    """Run what is missing, write the record and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/switches"))
    parser.add_argument("--page", action="store_true", help="only write the table of the page")
    given = parser.parse_args()
    if not given.page:
        runs = {
            f"{folder_of(name)}__seed{seed}": (name, replace(recipe, seed=seed))
            for name, recipe in variants().items()
            for seed in SEEDS
        }
        measured = side_by_side(
            {key: (measure, (recipe, given.folder / key)) for key, (_, recipe) in runs.items()},
            workers=os.cpu_count() or 1,
            threads=1,
            reporter=lambda name: PrintedReporter(name),
        )
        scores = {
            name: [measured[f"{folder_of(name)}__seed{seed}"] for seed in SEEDS]
            for name in variants()
        }
        write_json(
            RECORD,
            {"seeds": SEEDS, "part": "validation", "switches": rows(scores)}
            | {"environment": environment()},
        )
    write_page(read_json(RECORD))


class PrintedReporter(NullReporter):
    """Prints the begin of each piece of work."""

    def __init__(self, name: str) -> None:
        self.name = name

    def begin(self, stage: str, steps: int, done: int) -> None:
        """Print the stage."""
        print(f"{self.name}: {stage}", flush=True)

    def log(self, text: str) -> None:
        """Print a message."""
        print(f"{self.name}: {text}", flush=True)


if __name__ == "__main__":
    main()
