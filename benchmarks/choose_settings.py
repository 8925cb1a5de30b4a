"""Choose the digits recipes' settings on validation images, with seeds that no table reports.

Run it from the repository: ``python benchmarks/choose_settings.py`` (about 40 minutes of one core;
run again, it goes on). Every method gets six candidates and the same three seeds. A candidate's
score is (clean + strongest)/2 in percent, worst case over everything its evaluation tries, on the
images that were held out of its own training. Test images are never read.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from equipoise.api.evaluate import evaluate
from equipoise.api.train import train
from equipoise.execution.process_pool import side_by_side
from equipoise.recipes import RECIPES, Evaluation, Recipe, to_json
from equipoise.records.files import read_record
from equipoise.runtime.environment import environment
from equipoise.runtime.files import write_json
from equipoise.runtime.reporter import NullReporter, Reporter

SEEDS = (100, 101, 102)
JUDGE = Evaluation(epsilons=(0.0, 0.2), steps=10, part="validation")


def candidates() -> dict[str, tuple[Recipe, dict[str, Any]]]:
    """By name: a recipe and what was changed in it. Those that share stages stand together."""
    found: dict[str, tuple[Recipe, dict[str, Any]]] = {}

    def add(name: str, base: str, settings: dict[str, Any], method: Any) -> None:
        recipe = replace(RECIPES[base](), name=name, method=method, evaluation=JUDGE)
        found[name] = (recipe, settings)

    method: Any = RECIPES["pgd_at_digits"]().method
    for rate in (0.1, 0.2, 0.3):
        for epsilon in (0.2, 0.25):
            changed = replace(
                method, epsilon=epsilon, schedule=replace(method.schedule, learning_rate=rate)
            )
            settings = {"learning_rate": rate, "epsilon": epsilon}
            add(f"pgd_at-{rate}-{epsilon}", "pgd_at_digits", settings, changed)
    method = RECIPES["afa_digits"]().method
    for rate in (0.2, 0.3):
        for ceiling in (0.05, 0.1, 0.2):
            changed = replace(
                method,
                schedule=replace(method.schedule, learning_rate=rate),
                gate=replace(method.gate, ceiling=ceiling),
            )
            settings = {"learning_rate": rate, "ceiling": ceiling}
            add(f"afa-{rate}-{ceiling}", "afa_digits", settings, changed)
    method = RECIPES["afs_digits"]().method
    for budgets in ((0.15, 0.2, 0.25), (0.0, 0.1, 0.2)):
        for epochs, rate in ((10, 0.1), (20, 0.1), (20, 0.3)):
            changed = replace(
                method,
                budgets=budgets,
                schedule=replace(method.schedule, learning_rate=0.2),
                merger_schedule=replace(method.merger_schedule, epochs=epochs, learning_rate=rate),
            )
            settings = {"budgets": budgets, "merger_epochs": epochs, "merger_rate": rate}
            add(f"afs-{budgets[-1]}-{epochs}-{rate}", "afs_digits", settings, changed)
    return found


def one_seed(folder: Path, seed: int, *, reporter: Reporter) -> dict[str, list[float]]:
    """Train and judge every candidate with one seed; first stages are shared where they agree."""
    scores = {}
    done: dict[str, Path] = {}
    for name, (recipe, _) in candidates().items():
        place = folder / f"{name}__seed{seed}"
        own = replace(recipe, seed=seed)
        method: Any = to_json(own)["method"]
        for later in ("gate", "gate_schedule", "merger_schedule"):
            method.pop(later, None)
        shared = str(method)
        if shared in done and not place.exists():
            for stage in ("branches", "extractor*"):
                for source in (done[shared] / "stages").glob(stage):
                    shutil.copytree(source, place / "stages" / source.name)
            write_json(place / "recipe.json", to_json(own))
        done.setdefault(shared, place)
        reporter.log(f"seed {seed}: {name}")
        train(own, place, resume=True, reporter=NullReporter())
        records = sorted((place / "records").glob("*.json"))
        record = read_record(records[0]) if records else evaluate(place)[0]
        accuracy = record["headline"]["accuracy"]
        scores[name] = [accuracy[0], accuracy[-1], record["headline"]["clean_and_strongest"]]
    return scores


class Lines(NullReporter):
    """Prints what is said."""

    def log(self, text: str) -> None:
        print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/choose_settings"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    work = {str(seed): (one_seed, (given.folder, seed)) for seed in SEEDS}
    found = side_by_side(work, workers=given.workers, threads=1, reporter=lambda name: Lines())
    table = [
        {
            "candidate": name,
            "method": name.split("-")[0],
            "settings": settings,
            "clean_strongest_and_mean": [found[str(seed)][name] for seed in SEEDS],
            "score": round(100 * mean(found[str(seed)][name][2] for seed in SEEDS), 2),
            "deviation": round(100 * stdev(found[str(seed)][name][2] for seed in SEEDS), 2),
        }
        for name, (_, settings) in candidates().items()
    ]
    chosen = {}
    for row in table:
        best = chosen.setdefault(row["method"], row)
        if row["score"] > best["score"]:
            chosen[row["method"]] = row
    write_json(
        given.out,
        {
            "seeds": list(SEEDS),
            "images": "200 validation images of each seed",
            "chosen": {name: row["candidate"] for name, row in chosen.items()},
            "candidates": table,
            "environment": environment(),
        },
    )
    for row in table:
        mark = " <- chosen" if chosen[row["method"]] is row else ""
        print(f"{row['candidate']:20} {row['score']:6.2f} ({row['deviation']:.2f}){mark}")


if __name__ == "__main__":
    main()
