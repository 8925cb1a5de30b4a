"""Does a dry run say what training then takes? Estimates beside real runs, in processor time.

Run it from the repository: ``OMP_NUM_THREADS=1 python benchmarks/dry_run.py --data FOLDER``. FOLDER
is a copy of CIFAR-10. Each recipe is estimated in a process of its own and then trained in another
one; digits as they are, CIFAR-10 on fewer images, the papers' networks for two or three steps of
small batches. With one thread, processor time is what a run would take on a core for itself,
whatever else the machine does. The exit status is 1 if an estimate is off by more than 30 %.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_suffix(".json")
ALLOWED = 0.3
CASES: dict[str, dict[str, int]] = {
    "pgd_at_digits": {},
    "afa_digits": {},
    "pgd_at_cifar10_compact": {"batch_size": 128, "steps": 40, "validation_images": 400},
    "afs_cifar10_compact": {"batch_size": 128, "steps": 15, "validation_images": 200},
    "pgd_at_cifar10_paper": {"batch_size": 16, "steps": 3, "validation_images": 4},
    "afa_cifar10_paper": {"batch_size": 8, "steps": 2, "validation_images": 4},
}
"""By recipe, what makes its run short: one epoch a stage of so many steps."""


def shortened(name: str, data: Path | None) -> Any:
    """A recipe as it is measured here."""
    from equipoise.recipes import RECIPES

    recipe, short = RECIPES[name](), CASES[name]
    if not short:
        return recipe
    images = short["validation_images"] + short["batch_size"] * short["steps"]
    method: Any = recipe.method
    schedules = [field for field in vars(method) if field.endswith("schedule")]
    changes = {field: replace(getattr(method, field), epochs=1) for field in schedules}
    dataset: Any = recipe.dataset
    return replace(
        recipe,
        dataset=replace(dataset, folder=data, limit=images),
        method=replace(method, **changes),
        loop=replace(
            recipe.loop,
            batch_size=short["batch_size"],
            validation_images=short["validation_images"],
        ),
    )


def estimate(name: str, data: Path | None) -> dict[str, Any]:
    """What the dry run says, by the clock of the processor."""
    from lightning_fabric import Fabric

    from equipoise.api.dry_run import Timing, stage_costs

    recipe = shortened(name, data)
    dataset = recipe.dataset.load()
    fabric = Fabric(accelerator="cpu", devices=1, precision=recipe.loop.precision)
    fabric.launch()
    began = time.process_time()
    stages = stage_costs(
        recipe.method.stages,
        recipe.network.maker(dataset),
        dataset=dataset,
        loop=recipe.loop,
        seed=recipe.seed,
        fabric=fabric,
        timing=Timing(clock=time.process_time),
    )
    return {
        "seconds": sum(stage["seconds"] for stage in stages),
        "memory": max(stage["memory"] for stage in stages),
        "cost_of_the_dry_run": time.process_time() - began,
        "stages": stages,
    }


def train(name: str, data: Path | None) -> dict[str, Any]:
    """What training takes, checkpoints and all."""
    from equipoise.api.train import train as jobs_train
    from equipoise.runtime.environment import environment

    recipe = shortened(name, data)
    dataset = recipe.dataset.load()
    with tempfile.TemporaryDirectory(prefix="dry_run.") as work:
        began, wall = time.process_time(), time.perf_counter()
        jobs_train(recipe, Path(work) / "run", dataset=dataset)
        taken = time.process_time() - began
    return {
        "seconds": taken,
        "wall_seconds": time.perf_counter() - wall,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "environment": environment(),
    }


def in_process(what: str, name: str, data: Path | None) -> dict[str, Any]:
    """An estimate or a training in a fresh process, so that memory is its own."""
    where = ["--data", str(data)] if data else []
    command = [sys.executable, __file__, "--one", what, name, *where]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure, print a line a recipe, write the record; exit status 1 if an estimate is off."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10; without it digits alone")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "RECIPE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        what, name = given.one
        print(json.dumps({"estimate": estimate, "train": train}[what](name, given.data)))
        return

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from equipoise.runtime.files import read_json, write_json

    before = read_json(given.record)["recipes"] if given.record.exists() else {}
    off = []
    for name in given.only:
        if "cifar10" in name and given.data is None:
            continue
        said = in_process("estimate", name, given.data)
        took = in_process("train", name, given.data)
        ratios = {what: said[what] / took[what] for what in ("seconds", "memory")}
        before[name] = {"shortened": CASES[name], "estimate": said, "training": took} | {
            f"{what}_ratio": round(ratio, 3) for what, ratio in ratios.items()
        }
        off += [name for ratio in ratios.values() if abs(ratio - 1) > ALLOWED]
        print(
            f"{name}: {said['seconds']:.1f} s estimated, {took['seconds']:.1f} s taken "
            f"({ratios['seconds']:.2f}); {said['memory'] / 1e9:.2f} GB estimated, "
            f"{took['memory'] / 1e9:.2f} GB taken ({ratios['memory']:.2f})",
            flush=True,
        )
        write_json(
            given.record,
            {"threads": os.environ["OMP_NUM_THREADS"], "allowed": ALLOWED, "recipes": before},
        )
    sys.exit(bool(off))


if __name__ == "__main__":
    main()
