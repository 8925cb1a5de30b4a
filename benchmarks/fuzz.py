"""Fuzz every reader of files and text, with ten thousand inputs per target and engine.

Run it from the repository: ``python benchmarks/fuzz.py`` (``--inputs 10000 --targets record``). The
targets are in ``tests/helpers/fuzzing.py``. Each may read an input or refuse it clearly. An unclear
error, executed code, or a file written outside the target's folder ends the run and prints the
input. Engines: bytes from a seeded generator, and Atheris, which is guided by the coverage of this
package (``pip install atheris``; skipped if it is missing).
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
sys.path.insert(0, str(ROOT / "tests" / "helpers"))


def fuzz_randomly(name: str, inputs: int, seed: int) -> dict[str, Any]:
    """Feed bytes from a seeded generator to a target."""
    from fuzzing import TARGETS, survives

    generator, read = random.Random(f"{seed}/{name}"), 0
    start = time.monotonic()
    for number in range(inputs):
        data = generator.randbytes(generator.randrange(65))
        try:
            read += survives(TARGETS[name], data)
        except BaseException:
            print(f"{name}, input {number}: {data!r}", file=sys.stderr)
            raise
    seconds = round(time.monotonic() - start, 1)
    return {"inputs": inputs, "read": read, "refused": inputs - read, "seconds": seconds}


def fuzz_guided(name: str, inputs: int, seed: int) -> None:
    """Run Atheris, which ends this process: with status 0 if it found nothing."""
    import atheris

    with atheris.instrument_imports(include=["equipoise"]):
        import fuzzing

    def once(data: bytes) -> None:
        fuzzing.survives(fuzzing.TARGETS[name], data)

    atheris.Setup([sys.argv[0], f"-runs={inputs}", f"-seed={seed + 1}", "-max_len=64"], once)
    atheris.Fuzz()


def fuzz_guided_in_process(name: str, inputs: int, seed: int) -> dict[str, Any]:
    """Run ``fuzz_guided`` in a process and parse its report."""
    start = time.monotonic()
    flags = ["--targets", name, "--inputs", str(inputs), "--seed", str(seed), "--guided"]
    completed = subprocess.run(
        [sys.executable, __file__, *flags], capture_output=True, text=True, check=False
    )
    if completed.returncode:
        sys.exit(
            f"atheris ended with status {completed.returncode} in {name}:\n"
            f"{completed.stderr[-3000:]}"
        )

    last = [line for line in completed.stderr.splitlines() if " cov: " in line][-1]
    words = last.split()
    return {
        "inputs": inputs,
        "edges_covered": int(words[words.index("cov:") + 1]),
        "seconds": round(time.monotonic() - start, 1),
    }


def main() -> None:
    """Run all targets, print a line for each, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--targets", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--record", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    if options.guided:
        fuzz_guided(options.targets[0], options.inputs, options.seed)
        return
    import fuzzing

    from equipoise.runtime.environment import environment
    from equipoise.runtime.files import read_json, write_json

    results: dict[str, Any] = {}
    if options.record.exists():
        results = read_json(options.record)["targets"]
    for name in options.targets or fuzzing.TARGETS:
        results[name] = {"drawn": fuzz_randomly(name, options.inputs, options.seed)}
        if importlib.util.find_spec("atheris"):
            results[name]["guided"] = fuzz_guided_in_process(name, options.inputs, options.seed)
        print(name, json.dumps(results[name]), flush=True)
        content = {"seed": options.seed, "targets": results, "environment": environment()}
        write_json(options.record, content)


if __name__ == "__main__":
    main()
