"""Put known faults into a copy of the source, one at a time, and count how many the tests catch.

Run it from the repository: ``python benchmarks/seeded_faults.py`` (about 40 minutes on one core).
``seeded_faults.toml`` holds the faults: the file under ``src/equipoise``, a text that occurs once
in it, its replacement, and the tests that must fail. A fault is *caught* if one of them fails, has
*survived* if all pass, and is *broken* if they cannot be run. Each test that caught a fault must
pass without one. The record is written after every fault; if interrupted, run the script again.
Only faults whose entry, source file or tests have changed since are run again.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FAULTS = Path(__file__).with_suffix(".toml")
PACKAGE = Path("src/equipoise")
COPIED = ("src", "tests", "pyproject.toml")
"""What a run needs. Tests look for other files, such as records, beside these."""
PRELOADED = ["pytest", "torch", "lightning_fabric", "sklearn.datasets", "jaxtyping", "hypothesis"]
"""Modules that are imported once for all runs."""
OPTIONS = "-q --import-mode=importlib --strict-markers"
"""Options of pytest in place of those in pyproject.toml."""
TIMEOUT = 600.0
"""Seconds after which the tests of a fault are stopped; the fault then counts as broken."""
FORKS = multiprocessing.get_context("forkserver")
Fault = dict[str, Any]


def read_faults() -> list[Fault]:
    """Return all faults, in the order of the file."""
    faults: list[Fault] = tomllib.loads(FAULTS.read_text())["fault"]
    return faults


def with_fault(fault: Fault) -> str:
    """Return the text of the source file with the fault in it.

    Raises:
        ValueError: If the original text is not in the file exactly once.
    """
    text = (ROOT / PACKAGE / fault["file"]).read_text()
    count = text.count(fault["original"])
    if count != 1:
        raise ValueError(
            f"{fault['name']}: the original text must be in {fault['file']} once, got {count} times"
        )
    return text.replace(fault["original"], fault["replacement"])


def digest(fault: Fault) -> str:
    """Return a hash of a fault, its source file and the files of its tests."""
    content = hashlib.sha256(json.dumps(fault, sort_keys=True).encode())
    files = {test.partition("::")[0] for test in fault["tests"]}
    for path in (PACKAGE / fault["file"], *map(Path, sorted(files))):
        content.update((ROOT / path).read_bytes())
    return content.hexdigest()[:16]


def copy_repository(folder: Path) -> None:
    """Copy what a run changes or imports, and link to the rest."""
    for path in ROOT.iterdir():
        if path.name in COPIED:
            copy = shutil.copytree if path.is_dir() else shutil.copy2
            copy(path, folder / path.name)
        elif not path.name.startswith("."):
            (folder / path.name).symlink_to(path)


def run_tests(folder: Path, tests: list[str], timeout: float | None = None) -> tuple[int, str]:
    """Run tests in a copy of the repository; return pytest's exit status and output."""
    output = folder / "output.txt"
    process = FORKS.Process(target=_pytest, args=(folder, tests, output))
    process.start()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode or 0, output.read_text()


def _pytest(folder: Path, tests: list[str], output: Path) -> None:
    """Run pytest in this process, which has imported torch but nothing of Equipoise."""
    source = str(folder / "src")
    os.environ["PYTHONPATH"] = source  # for the processes that tests start
    sys.path.insert(0, source)
    os.chdir(folder)
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import pytest

    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.dont_write_bytecode = False  # what does not change is compiled once
    # Without the checks of shapes at every call, which take half the time.
    options = ["-o", f"addopts={OPTIONS}", "-x", "--tb=line", "-p", "no:cacheprovider"]
    sys.exit(pytest.main([*options, *tests]))


def outcome_of(fault: Fault, folder: Path, number: int) -> dict[str, Any]:
    """Run the tests of one fault in the copy, and restore the copy."""
    path = folder / PACKAGE / fault["file"]
    path.write_text(with_fault(fault))
    os.utime(path, (number, number))  # its own time, so that no other bytecode is taken for its own
    status, output = run_tests(folder, fault["tests"], TIMEOUT)
    shutil.copy2(ROOT / PACKAGE / fault["file"], path)
    outcome = {0: "survived", 1: "caught"}.get(status, "broken")
    failed = re.search(r"^(?:FAILED|ERROR) ([^\s\[]+)", output, re.MULTILINE)
    if outcome == "broken":
        print(output[-2000:])
    return {
        "outcome": outcome,
        "caught_by": failed[1] if failed and outcome == "caught" else None,
    }


def main() -> None:
    """Run what has no result yet, write the record, and fail unless every fault is caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="only faults with this text in their names")
    parser.add_argument("--record", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    from equipoise.runtime.environment import environment
    from equipoise.runtime.files import read_json, write_json

    os.environ["OMP_NUM_THREADS"] = "1"
    FORKS.set_forkserver_preload(PRELOADED)
    faults = read_faults()
    for fault in faults:
        with_fault(fault)  # refuses a text that has changed, before anything is run
    before = read_json(options.record)["faults"] if options.record.exists() else {}
    digests = {fault["name"]: digest(fault) for fault in faults}
    results = {
        fault["name"]: before[fault["name"]]
        for fault in faults
        if before.get(fault["name"], {}).get("digest") == digests[fault["name"]]
    }
    waiting = [f for f in faults if f["name"] not in results and options.only in f["name"]]
    with tempfile.TemporaryDirectory(prefix="seeded_faults.") as name:
        folder = Path(name)
        copy_repository(folder)
        for number, fault in enumerate(waiting, 1):
            result = outcome_of(fault, folder, number) | {"digest": digests[fault["name"]]}
            results[fault["name"]] = result
            print(f"{number:3d}/{len(waiting)}  {result['outcome']}  {fault['name']}", flush=True)
            ordered = {f["name"]: results[f["name"]] for f in faults if f["name"] in results}
            outcomes = [entry["outcome"] for entry in ordered.values()]
            counts = {name: outcomes.count(name) for name in ("caught", "survived", "broken")}
            content = {"listed": len(faults), **counts, "faults": ordered}
            write_json(options.record, content | {"environment": environment()})
        catchers = sorted({entry["caught_by"] for entry in results.values() if entry["caught_by"]})
        status, output = run_tests(folder, catchers)
        if status:
            sys.exit(f"tests that caught a fault must pass without one:\n{output[-3000:]}")
    caught = sum(result["outcome"] == "caught" for result in results.values())
    print(f"{caught} of {len(faults)} faults are caught, by {len(catchers)} tests.")
    sys.exit(caught != len(faults))


if __name__ == "__main__":
    main()
