"""Kill training with SIGKILL at random points of every stage, resume, and compare the weights.

Run it from the repository: ``python benchmarks/kill_and_resume.py`` (a few minutes on one core).
Each kill gets a fresh run of a small AFA or AFS recipe on digits; a checkpoint is written at every
step, and the kill comes at a random moment after a random step, so that it also hits writes,
validations and transitions between stages. The ``model.safetensors`` of the resumed run must be
byte-identical to that of an uninterrupted run.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from equipoise.methods import AFA, AFS, TrainingAttack
from equipoise.recipes import RECIPES, Recipe, to_json
from equipoise.runtime.environment import environment
from equipoise.runtime.files import write_json
from equipoise.training import checkpoint
from equipoise.training.schedule import Schedule

EPOCHS, BATCH = 2, 128
STEPS = (1347 - 200) // BATCH
RECORD = Path(__file__).with_suffix(".json")


def small(name: str) -> Recipe:
    """Return a digits recipe with two short epochs per stage that saves at every step."""
    recipe = RECIPES[name]()
    schedule = Schedule(epochs=EPOCHS, learning_rate=0.1)
    method: Any = replace(
        recipe.method, schedule=schedule, attack=TrainingAttack(steps=2, relative_step=0.5)
    )
    if isinstance(method, AFA):
        method = replace(method, gate_schedule=schedule)
    if isinstance(method, AFS):
        method = replace(method, merger_schedule=schedule, budgets=(0.1, 0.2))
    loop = replace(recipe.loop, batch_size=BATCH, validate_every=1, checkpoint_seconds=0.0)
    return replace(recipe, method=method, loop=loop)


def stages_of(recipe: Recipe) -> list[str]:
    """Return the names of a recipe's stages without building a network."""
    return [stage.name for stage in recipe.method.stages(lambda: None)]  # type: ignore[arg-type]


def command(recipe: Path, folder: Path) -> list[str]:
    """Return the command that starts or resumes a run."""
    resume = ["--resume"] if folder.exists() else []
    return [
        *(sys.executable, "-m", "equipoise", "train", str(recipe)),
        *("--out", str(folder), *resume),
    ]


def digest(folder: Path) -> str:
    """Return a digest of the final weights."""
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


def steps_done(folder: Path, stage: str) -> int:
    """Return the number of steps in a stage's newest checkpoint."""
    try:
        content = checkpoint.load_checkpoint(folder / "stages" / stage)
    except RuntimeError:  # read between two renames
        return 0
    return 0 if content is None else int(content[1]["epoch"]) * STEPS + int(content[1]["batch"])


def kill_after(arguments: list[str], folder: Path, stage: str, step: int, delay: float) -> bool:
    """Start a run and kill it ``delay`` seconds after a step; return False if it ended earlier."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while steps_done(folder, stage) < step and process.poll() is None:
            time.sleep(0.005)
        time.sleep(delay)
    finally:
        process.kill()
        _, errors = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"training failed by itself:\n{errors.decode()}")
    return process.returncode == -signal.SIGKILL


def one_kill(
    recipe: Path, expected: str, stage: str, step: int, delay: float, folder: Path
) -> dict[str, Any]:
    """Kill a run once and resume it."""
    killed = kill_after(command(recipe, folder), folder, stage, step, delay)
    left = steps_done(folder, stage)
    half = [str(p.relative_to(folder)) for p in folder.rglob(".*") if p.is_file()]
    subprocess.run(command(recipe, folder), check=True, capture_output=True)
    return {
        "stage": stage,
        "step": step,
        "delay_seconds": round(delay, 4),
        "killed": killed,
        "checkpoint_at_kill": left,
        "half_written_files": half,
        "identical": digest(folder) == expected,
    }


def main() -> None:
    """Run, print a line per kill, write the record; exit with status 1 if any run differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, default=RECORD)
    given = parser.parse_args()

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread count for all runs
    drawn, began = random.Random(given.seed), time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="kill_and_resume."))
    points: list[dict[str, Any]] = []
    try:
        places = []
        for name in ("afa_digits", "afs_digits"):
            recipe = small(name)
            path, whole = work / f"{name}.json", work / f"{name}.whole"
            write_json(path, to_json(recipe))
            subprocess.run(command(path, whole), check=True, capture_output=True)
            places += [(name, path, digest(whole), stage) for stage in stages_of(recipe)]
        for number in range(given.kills):
            name, path, expected, stage = places[number % len(places)]  # every stage in turn
            step, delay = drawn.randint(1, EPOCHS * STEPS), drawn.uniform(0, 0.1)
            folder = work / f"{number}"
            point = {"recipe": name} | one_kill(path, expected, stage, step, delay, folder)
            points.append(point)
            shutil.rmtree(folder)
            print(
                f"{number + 1:3d}  {name} {stage} step {step}: "
                + ("bit-identical" if point["identical"] else "DIFFERENT"),
                flush=True,
            )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    identical = sum(point["identical"] for point in points)
    write_json(
        given.record,
        {
            "kills": sum(point["killed"] for point in points),
            "runs": len(points),
            "identical": identical,
            "seed": given.seed,
            "epochs_per_stage": EPOCHS,
            "steps_per_epoch": STEPS,
            "threads": os.environ["OMP_NUM_THREADS"],
            "seconds": round(time.monotonic() - began, 1),
            "points": points,
            "environment": environment(),
        },
    )
    print(f"{identical} of {len(points)} killed and resumed runs are bit-identical.")
    sys.exit(identical != len(points))


if __name__ == "__main__":
    main()
