"""Kill an evaluation with SIGKILL at random moments, run it again, compare the records.

Run it from the repository: ``python benchmarks/interrupt_evaluation.py MODEL`` (some minutes on one
core), where MODEL is a run or model folder. Each kill gets a fresh copy of the model; the record of
the evaluation that was taken up again must equal that of one that nobody touched, in everything
but times.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from equipoise.runtime.environment import environment
from equipoise.runtime.files import read_json, write_json

SETTINGS = (
    *("--images", "32", "--suite", "quick", "adaptive", "--no-self-checks"),
    *("--steps", "10", "--batch-size", "8"),
)


def command(model: Path, epsilons: list[str]) -> list[str]:
    """The command that starts an evaluation, or goes on with it."""
    return [
        *(sys.executable, "-m", "equipoise", "evaluate", str(model)),
        *("--epsilons", *epsilons, *SETTINGS),
    ]


def untimed(content: Any) -> Any:
    """A record without what may differ: times."""
    if isinstance(content, dict):
        return {k: untimed(v) for k, v in content.items() if k not in ("seconds", "environment")}
    return [untimed(each) for each in content] if isinstance(content, list) else content


def record_in(folder: Path) -> Any:
    (path,) = (folder / "records").glob("*.json")
    return untimed(read_json(path))


def main() -> None:
    """Run, print a line a kill, write the record; exit status 1 if any differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epsilons", nargs="+", default=["0.1", "0.2"])
    parser.add_argument("--record", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    drawn, work = random.Random(given.seed), Path(tempfile.mkdtemp(prefix="interrupt."))
    source = given.model / "model" if (given.model / "model").is_dir() else given.model
    points = []
    try:
        whole = work / "whole"
        shutil.copytree(source, whole / "model")
        began = time.monotonic()
        subprocess.run(command(whole, given.epsilons), check=True, capture_output=True)
        lasted, expected = time.monotonic() - began, record_in(whole)
        for number in range(given.kills):
            folder = work / str(number)
            shutil.copytree(source, folder / "model")
            after = drawn.uniform(0.05, 0.98) * lasted
            process = subprocess.Popen(
                command(folder, given.epsilons),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(after)
            process.kill()
            process.wait()
            units = len(list(folder.rglob("evaluations/**/*.safetensors")))
            subprocess.run(command(folder, given.epsilons), check=True, capture_output=True)
            points.append(
                {
                    "after_seconds": round(after, 2),
                    "killed": process.returncode == -signal.SIGKILL,
                    "units_on_disk": units,
                    "identical": record_in(folder) == expected,
                }
            )
            print(number + 1, points[-1], flush=True)
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    identical = sum(point["identical"] for point in points)
    print(f"{identical} of {len(points)} evaluations ended in the same record")
    write_json(
        given.record,
        {
            "seed": given.seed,
            "settings": [*SETTINGS, "--epsilons", *given.epsilons],
            "uninterrupted_seconds": round(lasted, 1),
            "kills": sum(point["killed"] for point in points),
            "identical": identical,
            "points": points,
            "environment": environment(),
        },
    )
    sys.exit(identical != len(points))


if __name__ == "__main__":
    main()
