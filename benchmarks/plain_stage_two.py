"""AFA's plain stage II as printed, for every place where the weight generator can read.

The paper trains the generator with the classification loss alone, 20 epochs at a rate of 0.01 that
falls to 0.001 at the tenth (AFA Sec. 4.3, 5.1). Does the fusing weight then depend on the strength
of the attack, and what does the gate cost in the worst case? For each placement this script trains

- ``sgd``: as printed; on digits, whose 20 epochs are 340 updates, for 2,000 updates, with the decay
  in the middle;
- ``adamw``: the same with AdamW at 0.003, which leaves the plateau on which SGD can stay
  (docs/decisions/008-optimiser-of-the-weight-generator.md);
- ``control``: a quarter of that with pairs and a detection loss, which tell the generator the
  strength. If this weight follows the strength and the plain one does not, neither optimiser nor
  placement is the reason.

All placements of a seed share one stage I. Two runs without a generator, the robust and the clean
branch alone, are the references. Everything is measured on validation images, held out of the
run's own training: accuracy is the worst case per image over the suites ``quick`` and ``adaptive``,
which attack through the gate; the fusing weight W1 is its mean and deviation at each strength.

Run it from the repository: ``python benchmarks/plain_stage_two.py``, and with ``--data FOLDER`` for
compact CIFAR-10 as well. Run again, it continues; ``--collect`` only writes the record of what is
done. For the time that it takes see benchmarks/README.md.
"""

import argparse
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from equipoise.api.evaluate import evaluate
from equipoise.api.train import train
from equipoise.data import Cifar10
from equipoise.distributed.ranks import launched
from equipoise.execution.local import execute
from equipoise.execution.process_pool import side_by_side
from equipoise.methods import AFA, Gate
from equipoise.recipes import RECIPES, Evaluation, Recipe, to_json
from equipoise.records.files import read_record
from equipoise.runtime.environment import environment
from equipoise.runtime.files import read_json, write_json
from equipoise.runtime.reporter import NullReporter, Reporter
from equipoise.training.schedule import Schedule

RECORD = Path(__file__).with_suffix(".json")
LEAST_UPDATES = 2000
"""AdamW left its plateau after 150 updates, SGD stayed on it for 600 (docs/decisions/008)."""
BASES = {"digits": "afa_digits_plain", "cifar10_compact": "afa_cifar10_compact_plain"}
TRAINING_IMAGES = {"digits": 1347 - 200, "cifar10_compact": 50_000 - 1000}
PLACEMENTS: dict[str, Gate] = {
    "pixels": Gate(),
    "stem": Gate(placement="stem"),
    "layer stages.0, robust before": Gate(placement="layer", layer="stages.0"),
    "layer stages.0, clean before": Gate(placement="layer", layer="stages.0", before="clean"),
    "layer stages.1, robust before": Gate(placement="layer", layer="stages.1"),
    "per norm": Gate(placement="per_norm"),
}
"""The layers are the ends of a wide ResNet's first and second stage of blocks."""
OPTIMISERS = ("sgd", "adamw", "control")
BRANCHES = {"robust branch alone": 0.0, "clean branch alone": 1.0}
POINTS = 20
"""Points of each training curve in the record."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One model of the table.

    Args:
        data: A key of ``BASES``.
        placement: A key of ``PLACEMENTS``, or of ``BRANCHES`` for a reference without a generator.
        optimiser: One of ``OPTIMISERS``; empty for a reference.
        recipe: What is trained.
    """

    data: str
    placement: str
    optimiser: str
    recipe: Recipe

    @property
    def shared(self) -> str:
        """Name of the folder of the stage I that it shares."""
        return f"{self.data}__branches__seed{self.recipe.seed}"

    @property
    def folder(self) -> str:
        """Name of its run folder."""
        return f"{self.recipe.name}__seed{self.recipe.seed}"


def schedule_of(data: str, batch_size: int, optimiser: str) -> Schedule:
    """The printed schedule; a small data set gets more epochs, the control a quarter of them."""
    updates_an_epoch = TRAINING_IMAGES[data] // batch_size
    epochs = max(20, round(LEAST_UPDATES / updates_an_epoch))
    if optimiser == "control":
        epochs //= 4
    printed = Schedule(epochs=epochs, learning_rate=0.01, decay_epochs=(epochs // 2,))
    return (
        printed if optimiser == "sgd" else replace(printed, optimiser="adamw", learning_rate=3e-3)
    )


def runs(data: str, seeds: list[int], source: Path | None, images: int) -> Iterator[Run]:
    """List the references and all combinations of placement and optimiser."""
    base = RECIPES[BASES[data]]()
    assert isinstance(base.method, AFA)
    judge = Evaluation(
        epsilons=base.evaluation.epsilons, steps=10, images=images, part="validation"
    )
    dataset = Cifar10(folder=source) if data == "cifar10_compact" else base.dataset
    # A stage of 118 epochs need not be validated at each: it keeps its last one.
    loop = replace(base.loop, validate_every=20)
    base = replace(base, dataset=dataset, evaluation=judge)
    for seed in seeds:
        for placement, share in BRANCHES.items():
            method = replace(base.method, soup=share)
            yield _run(base, data, placement, "", method, loop, seed)
        for placement, plain in PLACEMENTS.items():
            for optimiser in OPTIMISERS:
                guided = {"pairs": True, "detection": 1.0} if optimiser == "control" else {}
                method = replace(
                    base.method,
                    gate=replace(plain, **guided),
                    gate_schedule=schedule_of(data, base.loop.batch_size, optimiser),
                )
                yield _run(base, data, placement, optimiser, method, loop, seed)


def _run(
    base: Recipe, data: str, placement: str, optimiser: str, method: AFA, loop: Any, seed: int
) -> Run:
    words = f"{data} {placement} {optimiser}".replace(",", "").replace(".", " ").split()
    recipe = replace(base, name="_".join(words), method=method, loop=loop, seed=seed)
    return Run(data=data, placement=placement, optimiser=optimiser, recipe=recipe)


def train_branches(run: Run, folder: Path, *, reporter: Reporter) -> None:
    """Train stage I, which all placements share."""
    recipe = run.recipe
    dataset = recipe.dataset.load()
    fabric = launched(recipe.loop.precision, recipe.loop.batch_size)
    first = recipe.method.stages(recipe.network.maker(dataset))[:1]
    execute(
        first,
        train=dataset.train,
        loop=RECIPES[BASES[run.data]]().loop,  # stage I keeps the best of its own validations
        folder=folder / run.shared,
        seed=recipe.seed,
        fabric=fabric,
        reporter=reporter,
    )


def measure(run: Run, folder: Path, *, reporter: Reporter) -> None:
    """Train stage II on the shared branches and evaluate it, unless that is done."""
    place = folder / run.folder
    if record_of(run, folder).exists():
        return
    own = place / "stages" / "branches"
    if not own.exists():
        partial = own.with_name(".copy")
        shutil.rmtree(partial, ignore_errors=True)
        # Without its settings: stage II is validated less often, which stage I does not depend on.
        settings = shutil.ignore_patterns("settings.json")
        shutil.copytree(folder / run.shared / "stages" / "branches", partial, ignore=settings)
        write_json(place / "recipe.json", to_json(run.recipe))
        os.replace(partial, own)
    train(run.recipe, place, resume=True, reporter=reporter)
    evaluate(place, checks=False, reporter=reporter)


def record_of(run: Run, folder: Path) -> Path:
    """The evaluation's record."""
    return folder / run.folder / "records" / f"{run.folder}.json"


def row(run: Run, folder: Path) -> dict[str, Any]:
    """What the table says of a run."""
    record = read_record(record_of(run, folder))
    found: dict[str, Any] = {
        "data": run.data,
        "seed": run.recipe.seed,
        "placement": run.placement,
        "optimiser": run.optimiser,
        "images": record["images"],
        "epsilons": record["epsilons"],
        "worst_case": record["headline"]["accuracy"],
        "before_attacks_on_the_gate": record["suites"][0]["accuracy"],
    }
    if run.optimiser:
        method = run.recipe.method
        assert isinstance(method, AFA)
        found["schedule"] = to_json(method.gate_schedule)
        for way, points in record["fusing_weight"].items():
            found[f"w1_{way}"] = [
                {key: round(point[key], 4) for key in ("mean", "std")} for point in points
            ]
        curve = folder / run.folder / "stages" / "gate" / "metrics.jsonl"
        epochs = [json.loads(line) for line in curve.read_text().splitlines()]
        step = max(1, len(epochs) // POINTS)
        found["curve"] = [
            {"epoch": number + 1, **epochs[number]["train"]}
            for number in range(step - 1, len(epochs), step)
        ]
    return found


def write(found: list[Run], folder: Path, out: Path) -> None:
    """Write the rows of all runs that are done, over those of an earlier record."""
    rows = [row(run, folder) for run in found if record_of(run, folder).exists()]
    keys = ("data", "seed", "placement", "optimiser")
    new = {tuple(entry[key] for key in keys) for entry in rows}
    old = read_json(out)["rows"] if out.exists() else []
    kept = [entry for entry in old if tuple(entry[key] for key in keys) not in new]
    about = {"part": "validation", "environment": environment()}
    write_json(out, about | {"rows": kept + rows})
    for entry in rows:
        accuracy = "  ".join(f"{100 * value:5.1f}" for value in entry["worst_case"])
        weights = entry.get("w1_through_generator", [])
        shown = " ".join(f"{point['mean']:.2f}" for point in weights)
        print(
            f"{entry['data']:15} {entry['seed']:3} {entry['placement']:30} "
            f"{entry['optimiser']:8} {accuracy}   W1 {shown}"
        )


class Lines(NullReporter):
    """Prints the begin of each piece of work."""

    def __init__(self, name: str) -> None:
        self.name = name

    def begin(self, stage: str, steps: int, done: int) -> None:
        """Print the stage."""
        print(f"{self.name}: {stage}, {done} of {steps} steps", flush=True)


def main() -> None:
    """Run what is missing and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10; without it, digits alone")
    parser.add_argument("--folder", type=Path, default=Path("runs/plain_stage_two"))
    parser.add_argument("--out", type=Path, default=RECORD)
    parser.add_argument("--seeds", type=int, nargs="+", default=[300, 301, 302])
    parser.add_argument("--cifar10-seeds", type=int, nargs="+", default=[300])
    parser.add_argument("--images", type=int, default=500, help="validation images of CIFAR-10")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", default="", help="runs whose name contains this")
    parser.add_argument("--collect", action="store_true", help="only write the record")
    given = parser.parse_args()
    found = list(runs("digits", given.seeds, None, 200))
    if given.data is not None:
        found += runs("cifar10_compact", given.cifar10_seeds, given.data, given.images)
    found = [run for run in found if given.only in run.folder]
    if not given.collect:
        shared = {run.shared: run for run in found}
        for work in (
            {name: (train_branches, (run, given.folder)) for name, run in shared.items()},
            {run.folder: (measure, (run, given.folder)) for run in found},
        ):
            side_by_side(work, workers=given.workers, threads=1, reporter=Lines)
    write(found, given.folder, given.out)


if __name__ == "__main__":
    main()
