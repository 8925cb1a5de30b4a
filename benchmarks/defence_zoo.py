"""Does the evaluation see through broken defences, and leave sound models alone?

Every model of ``defences/catalogue.py`` is attacked by ``defences/truth.py``, which knows how it
works, and evaluated as a user would, each time in a fresh process and an empty folder. A score more
than three points above the truth, without a flag, is a false score; a flagged sound model is a
false alarm, unless its score is that much too high.

Run it from the repository: ``python benchmarks/defence_zoo.py``. Run again, it resumes; ``--again``
repeats the evaluations, for another state of the code, and keeps the truths; ``--show`` only prints
the record.
"""

import argparse
import contextlib
import itertools
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from defences import base, catalogue
from defences.catalogue import Entry
from defences.truth import true_accuracy

from equipoise.api.evaluate import evaluate
from equipoise.runtime.environment import environment
from equipoise.runtime.errors import UserError
from equipoise.runtime.files import read_json, write_json

TOLERANCE = 0.03
MARKS = ("randomised", "black box only", "stateful", "reject option")
"""Names of a record's marks that say its score is of another kind than a plain network's."""

LIMIT = 3600
"""Seconds after which an evaluation is given up."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How models are evaluated.

    Args:
        suites: Suites of attacks.
        stronger: Whether epsilon 1 is evaluated too, which must not switch any check off.
    """

    suites: tuple[str, ...]
    stronger: bool = False


PROTOCOLS = {
    "quick": Protocol(suites=("quick",)),
    "quick-and-1": Protocol(suites=("quick",), stronger=True),
    "all": Protocol(suites=("quick", "standard", "adaptive")),
}
Outcome = dict[str, Any]


def flags_of(record: Outcome) -> list[str]:
    """What a record says against its own score: failed checks, warnings, marks."""
    flags = [
        f"{check['verdict']}: {check['name']}"
        for check in record.get("self_checks", ())
        if check["verdict"] != "pass"
    ]
    marks = [mark["name"] for mark in record.get("marks", ())]
    return flags + [f"mark: {name}" for name in marks if name in MARKS]


def score(entry: Entry, protocol: Protocol, seed: int, images: int) -> Outcome:
    """Evaluate a model in the current folder, as a user would."""
    model: str = entry.name
    if entry.is_recipe:
        model = "run"
        _copy_model(catalogue.recipe_folder(entry.name), Path(model))
    strengths = (0.0, base.epsilon(), 1.0) if protocol.stronger else (0.0, base.epsilon())
    began = time.monotonic()
    try:
        record, _ = evaluate(
            model,
            dataset=base.data(),
            epsilons=strengths,
            suites=protocol.suites,
            images=images,
            seed=seed,
        )
    except UserError as error:
        return {"refused": str(error)[:200], "flags": ["refused"]}
    except Exception as error:
        return {"crashed": f"{type(error).__name__}: {error}"[:200], "flags": []}
    accuracy = record["headline"]["accuracy"]
    return {
        "clean": accuracy[0],
        "score": accuracy[1],
        "flags": flags_of(record),
        "seconds": round(time.monotonic() - began, 1),
    }


def _copy_model(folder: Path, into: Path) -> None:
    """Copy a run without its records and cached evaluations."""
    import shutil

    shutil.copytree(folder, into, ignore=shutil.ignore_patterns("records", "evaluations"))


def truth(entry: Entry, images: int) -> Outcome:
    """Attack a model adaptively."""
    pixels, labels = base.data().test.batch(slice(0, images))
    return true_accuracy(
        lambda: catalogue.make(entry),
        pixels,
        labels,
        epsilon=base.epsilon(),
        randomised=entry.randomised,
    )


def apart(work: Callable[[], Outcome]) -> Outcome:
    """Run in a forked process, which starts in an empty folder."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                there.send(work())
            os.chdir("/")

    process = context.Process(target=run)
    process.start()
    there.close()
    try:
        if not here.poll(LIMIT):
            return {"crashed": f"no answer in {LIMIT} s", "flags": []}
        return here.recv()
    except EOFError:
        return {"crashed": "the process died", "flags": []}
    finally:
        process.kill()
        process.join()


def verdict(entry: Entry, true: float, outcome: Outcome) -> str:
    """Name what an evaluation got wrong; empty if nothing."""
    if "crashed" in outcome:
        return "crash"
    too_high = outcome.get("score", 0.0) - true > TOLERANCE
    if outcome["flags"]:
        return "false alarm" if entry.sound and not too_high else ""
    if too_high:
        return "false score"
    return "unflagged" if entry.always_flag else ""


def run(rows: list[Outcome], given: argparse.Namespace, save: Callable[[], None]) -> None:
    """Fill in what is missing: truths first, then one protocol after the other."""
    work = []
    for entry in catalogue.entries():
        if not _chosen(entry.name, given.only):
            continue
        row = next((row for row in rows if row["name"] == entry.name), None)
        if row is None:
            rows.append(row := {"name": entry.name, "evaluations": []})
        row |= asdict(entry)
        work.append((entry, row))
    with ThreadPoolExecutor(given.workers) as pool:  # each thread waits for a process of its own
        missing = [(entry, row) for entry, row in work if "truth" not in row]
        found = pool.map(lambda pair: apart(partial(truth, pair[0], given.images)), missing)
        for (entry, row), outcome in zip(missing, found, strict=True):
            row["truth"] = _must(outcome, entry.name)
            save()
        tried = [
            (entry, row, protocol, seed)
            for protocol, seed in itertools.product(given.protocols, given.seeds)
            for entry, row in work
            if (protocol, seed) not in {(o["protocol"], o["seed"]) for o in row["evaluations"]}
        ]
        scores = pool.map(
            lambda one: apart(partial(score, one[0], PROTOCOLS[one[2]], one[3], given.images)),
            tried,
        )
        for (entry, row, protocol, seed), outcome in zip(tried, scores, strict=True):
            true = row["truth"]["accuracy"]
            outcome |= {"protocol": protocol, "seed": seed}
            if "score" in outcome:
                outcome["gap"] = round(outcome["score"] - true, 4)
            outcome["verdict"] = verdict(entry, true, outcome)
            row["evaluations"].append(outcome)
            print(line(row, outcome), flush=True)
            save()


def _must(outcome: Outcome, name: str) -> Outcome:
    """The outcome, which must not be a crash: without a truth there is nothing to compare."""
    if "crashed" in outcome:
        sys.exit(f"{name} has no truth: {outcome['crashed']}")
    return outcome


def _chosen(name: str, only: list[str] | None) -> bool:
    return only is None or any(part in name for part in only)


def line(row: Outcome, outcome: Outcome) -> str:
    """One evaluation as a line of text."""
    percent = f"{100 * outcome['score']:5.1f}" if "score" in outcome else "    -"
    said = outcome.get("refused") or outcome.get("crashed") or ", ".join(outcome["flags"])
    return (
        f"{row['name'].removeprefix('defences.'):38} {outcome['protocol']:12} {outcome['seed']}  "
        f"true {100 * row['truth']['accuracy']:5.1f}  score {percent}  "
        f"{outcome['verdict'] or 'right':11}  {said}"
    )


def summary(rows: list[Outcome]) -> Outcome:
    """Counts of evaluations by verdict and protocol, and of sound models that fail a check."""
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        for outcome in row["evaluations"]:
            count = counts.setdefault(
                outcome["protocol"],
                dict.fromkeys(
                    (
                        "broken",
                        "false score",
                        "false score, warned of",
                        "unflagged",
                        "sound",
                        "false alarm",
                        "false alarm, failed",
                        "crash",
                        "truth beaten",
                    ),
                    0,
                ),
            )
            count["sound" if row["sound"] else "broken"] += 1
            if outcome["verdict"]:
                count[outcome["verdict"]] += 1
            gap = outcome.get("gap", 0.0)
            serious = any(not flag.startswith("warn") for flag in outcome["flags"])
            count["false score, warned of"] += bool(
                gap > TOLERANCE and outcome["flags"] and not serious
            )
            count["false alarm, failed"] += outcome["verdict"] == "false alarm" and serious
            count["truth beaten"] += gap < -TOLERANCE and not row["randomised"]
    return counts


def show(rows: list[Outcome]) -> None:
    """Print what went wrong, the most severe first, and the counts."""
    order = ("false score", "unflagged", "crash", "false alarm")
    wrong = [(row, out) for row in rows for out in row["evaluations"] if out["verdict"]]
    wrong.sort(key=lambda pair: (order.index(pair[1]["verdict"]), -pair[1].get("gap", 0.0)))
    print("\nwrong:")
    for row, outcome in wrong:
        print(line(row, outcome))
    for protocol, count in summary(rows).items():
        print(f"{protocol}: " + ", ".join(f"{number} {name}" for name, number in count.items()))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--protocols", nargs="+", choices=list(PROTOCOLS), default=list(PROTOCOLS))
    parser.add_argument("--only", nargs="+", help="parts of the names of models")
    parser.add_argument("--data", choices=("digits", "cifar10"), default="digits")
    parser.add_argument("--folder", type=Path, help="the folder of CIFAR-10")
    parser.add_argument("--workers", type=int, default=1, help="evaluations side by side")
    parser.add_argument("--again", action="store_true", help="repeat evaluations; truths are kept")
    parser.add_argument("--show", action="store_true", help="print the record, and run nothing")
    parser.add_argument("--record", type=Path)
    given = parser.parse_args()
    if (given.data == "cifar10") != (given.folder is not None):
        parser.error("--data cifar10 and --folder go together.")
    if given.record is None:
        suffix = "" if given.data == "digits" else f"_{given.data}"
        given.record = Path(__file__).with_name(f"defence_zoo{suffix}.json")
    return given


def main() -> None:
    """Run what is missing, print a line an evaluation and what went wrong, write the record."""
    given = options()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # forked processes cannot use a GPU
    if given.folder is not None:
        os.environ["DEFENCE_ZOO_CIFAR10"] = str(given.folder.resolve())
    torch.set_num_threads(1)
    rows: list[Outcome] = []
    if given.record.exists():
        kept = read_json(given.record)
        if kept["images"] != given.images:
            sys.exit(f"{given.record} is of {kept['images']} images; give --record another name.")
        rows = kept["models"]
    if given.show:
        return show(rows)
    if given.again:
        for row in rows:
            if _chosen(row["name"], given.only):
                row["evaluations"] = []
    base.training_batch()  # loaded once, before any fork

    def save() -> None:
        facts = {"data": given.data, "epsilon": base.epsilon(), "images": given.images}
        content = {**facts, "summary": summary(rows), "models": rows}
        write_json(given.record, {**content, "environment": environment()})

    run(rows, given, save)
    save()
    show(rows)


if __name__ == "__main__":
    main()
