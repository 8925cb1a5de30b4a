"""Fuzz every reader of files and text: ten thousand inputs a target and engine.

Run it from the repository: ``python benchmarks/fuzz.py`` (``--inputs 10000 --targets record``). The
targets are those of ``tests/helpers/fuzzing.py``. Each may read an input or refuse it clearly; an
unclear error, anything executed, or anything written outside of the target's own folder ends the
run with the input printed. Engines: ``bytes`` drawn by a seeded generator, and Atheris, which is
guided by the coverage of this package (``pip install atheris``; left out where it is missing).
"""

import argparse
import importlib.util
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def drawn(name: str, inputs: int, seed: int) -> dict[str, Any]:
    """Bytes from a seeded generator."""
    from fuzzing import TARGETS, survives

    generator, read = random.Random(f"{seed}/{name}"), 0
    began = time.monotonic()
    for number in range(inputs):
        data = generator.randbytes(generator.randrange(65))
        try:
            read += survives(TARGETS[name], data)
        except BaseException:
            print(f"{name}, input {number}: {data!r}", file=sys.stderr)
            raise
    seconds = round(time.monotonic() - began, 1)
    return {"inputs": inputs, "read": read, "refused": inputs - read, "seconds": seconds}


def guided(name: str, inputs: int, seed: int) -> None:
    """Atheris, in a process of its own, which it ends itself: status 0 if it found nothing."""
    import atheris

    with atheris.instrument_imports(include=["equipoise"]):
        import fuzzing

    def once(data: bytes) -> None:
        fuzzing.survives(fuzzing.TARGETS[name], data)

    atheris.Setup([sys.argv[0], f"-runs={inputs}", f"-seed={seed + 1}", "-max_len=64"], once)
    atheris.Fuzz()


def in_a_process(name: str, inputs: int, seed: int) -> dict[str, Any]:
    """Run ``guided`` and read what it reports."""
    began = time.monotonic()
    flags = ["--targets", name, "--inputs", str(inputs), "--seed", str(seed), "--guided"]
    done = subprocess.run(
        [sys.executable, __file__, *flags], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"atheris ended with status {done.returncode} in {name}:\n{done.stderr[-3000:]}")

    last = [line for line in done.stderr.splitlines() if " cov: " in line][-1]
    words = last.split()
    return {
        "inputs": inputs,
        "edges_covered": int(words[words.index("cov:") + 1]),
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    """Run, print a line a target and engine, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--targets", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--record", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    if given.guided:
        guided(given.targets[0], given.inputs, given.seed)
        return
    import fuzzing

    from equipoise.runtime.environment import environment
    from equipoise.runtime.files import read_json, write_json

    found: dict[str, Any] = {}
    if given.record.exists():
        found = read_json(given.record)["targets"]
    for name in given.targets or fuzzing.TARGETS:
        found[name] = {"drawn": drawn(name, given.inputs, given.seed)}
        if importlib.util.find_spec("atheris"):
            found[name]["guided"] = in_a_process(name, given.inputs, given.seed)
        print(name, json.dumps(found[name]), flush=True)
        content = {"seed": given.seed, "targets": found, "environment": environment()}
        write_json(given.record, content)


if __name__ == "__main__":
    main()
