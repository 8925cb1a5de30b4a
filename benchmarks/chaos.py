"""Fifty faults in training and evaluation of small AFA and AFS runs, which must change no result.

Run it from the repository, as a user who may mount (or with ``--kills-only``):
``python benchmarks/chaos.py`` (about 10 minutes on one core). Each run has its own small file
system. At a random moment, its process is killed with SIGKILL, its disk becomes full, or its folder
becomes read-only; then the fault is fixed and the same command resumes. The final weights and
record must equal those of an uninterrupted run.
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
from collections import Counter
from pathlib import Path
from typing import Any

from interrupt_evaluation import record_in
from kill_and_resume import command, digest, small

from equipoise.recipes import to_json
from equipoise.runtime.environment import environment
from equipoise.runtime.files import write_json

ROOM = "64m"


def evaluation(folder: Path) -> list[str]:
    """Return the command that starts or resumes the evaluation of a run."""
    settings = ["--images", "32", "--epsilons", "0.1", "0.2", "--steps", "10", "--batch-size", "8"]
    return [sys.executable, "-m", "equipoise", "evaluate", str(folder), *settings]


class Disk:
    """A separate file system for one run, or a plain folder."""

    def __init__(self, folder: Path, mounted: bool) -> None:
        self.folder, self.mounted = folder, mounted
        folder.mkdir()
        if mounted:
            _mount("-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder))

    def fill(self) -> None:
        """Shrink the file system to its content."""
        usage = os.statvfs(self.folder)
        used = (usage.f_blocks - usage.f_bfree) * usage.f_bsize
        _mount("-o", f"remount,size={used // 1024 + 8}k", str(self.folder))

    def protect(self) -> None:
        """Forbid changes to all folders, even to the superuser.

        Remounting read-only would fail: a run keeps its lock file open.
        """
        subprocess.run(["chattr", "-R", "+i", str(self.folder)], check=False, capture_output=True)

    def repair(self) -> None:
        """Undo all faults."""
        if self.mounted:
            subprocess.run(
                ["chattr", "-R", "-i", str(self.folder)], check=True, capture_output=True
            )
            _mount("-o", f"remount,rw,size={ROOM}", str(self.folder))

    def close(self) -> None:
        """Unmount and delete."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


def run_with_fault(arguments: list[str], disk: Disk, fault: str, after: float) -> dict[str, Any]:
    """Start a command and cause a fault ``after`` seconds later.

    Returns:
        A record of the fault: the exit status, and the error message if the process had one.
    """
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        {"kill": process.kill, "full disk": disk.fill, "read-only": disk.protect}[fault]()
    _, errors = process.communicate(timeout=600)
    disk.repair()
    text = errors.decode()
    clear = process.returncode in (0, -signal.SIGKILL) or "error:" in text
    if not clear or "Traceback" in text:
        raise RuntimeError(f"{fault} ended with status {process.returncode}:\n{text}")
    return {
        "fault": fault,
        "after_seconds": round(after, 2),
        "status": process.returncode,
        "said": text[text.find("error:") :].strip().replace(str(disk.folder), "FOLDER")[:300]
        if process.returncode > 0
        else "",
    }


def main() -> None:
    """Run, print a line per fault, write the record; exit with status 1 if any run differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--kills-only", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    drawn, began = random.Random(given.seed), time.monotonic()
    kinds = ["kill"] if given.kills_only else ["kill", "kill", "full disk", "read-only"]
    work, lives, counts = Path(tempfile.mkdtemp(prefix="chaos.")), [], Counter()
    try:
        wholes = []
        for name in ("afa_digits", "afs_digits"):
            recipe, folder = work / f"{name}.json", work / f"{name}.whole"
            write_json(recipe, to_json(small(name)))
            lasted = []
            for arguments in (command(recipe, folder), evaluation(folder)):
                start = time.monotonic()
                subprocess.run(arguments, check=True, capture_output=True)
                lasted.append(time.monotonic() - start)
            wholes.append((name, recipe, lasted, digest(folder), record_in(folder)))
        while counts.total() < given.faults:
            name, recipe, lasted, weights, record = wholes[len(lives) % 2]
            disk, faults = Disk(work / str(len(lives)), mounted=not given.kills_only), []
            folder = disk.folder / "run"
            for stage, seconds in zip(("train", "evaluate"), lasted, strict=True):
                for _ in range(3):
                    arguments = command(recipe, folder) if stage == "train" else evaluation(folder)
                    after = drawn.uniform(0.1, 0.95) * seconds
                    fault = run_with_fault(arguments, disk, drawn.choice(kinds), after)
                    if fault["status"]:
                        faults.append({"during": stage} | fault)
                        counts[fault["fault"]] += 1
                arguments = command(recipe, folder) if stage == "train" else evaluation(folder)
                subprocess.run(arguments, check=True, capture_output=True)
            same = digest(folder) == weights and record_in(folder) == record
            lives.append({"recipe": name, "faults": faults, "identical": same})
            print(
                f"{counts.total():3d} faults; {name}: {len(faults)} of them; "
                + ("same weights and record" if same else "DIFFERENT"),
                flush=True,
            )
            disk.close()
    finally:
        for path in work.glob("*"):
            if path.is_mount():
                subprocess.run(["umount", "-l", str(path)], check=False)
        shutil.rmtree(work, ignore_errors=True)
    identical = sum(life["identical"] for life in lives)
    write_json(
        given.record,
        {
            "faults": dict(counts),
            "runs": len(lives),
            "identical": identical,
            "seed": given.seed,
            "seconds": round(time.monotonic() - began, 1),
            "lives": lives,
            "environment": environment(),
        },
    )
    print(f"{identical} of {len(lives)} runs with {counts.total()} faults end the same.")
    sys.exit(identical != len(lives))


if __name__ == "__main__":
    main()
