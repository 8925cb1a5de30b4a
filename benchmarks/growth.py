"""Time and peak memory of a training step as branches, members, batch, image and network grow.

Run it from the repository: ``python benchmarks/growth.py``. Each point is a process of its own, so
that its peak memory is its own; the exponent b of size**b is fitted to the points.
"""

import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure as Canvas
from steps import batch, branch_task, network, our_step, pgd_task
from timing import exponent, rounded, settings
from timing import write_record as write
from torch import nn

from equipoise.methods import AFS, TrainingAttack
from equipoise.methods.afs import MergerTask
from equipoise.models import FeatureStack
from equipoise.objectives import PGDAT
from equipoise.report.papers.style import COLOURS, MARKS, WIDTH, styled
from equipoise.runtime.files import read_json
from equipoise.training.schedule import Schedule

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "growth.svg"
STEPS = 10
USUAL = {"batch": 32, "size": 32, "width": 2, "depth": 10, "branches": 1, "members": 1}
POINTS: dict[str, tuple[int, ...]] = {
    "branches": (2, 3, 5, 9),
    "members": (1, 2, 4, 8),
    "batch": (16, 32, 64, 128),
    "size": (16, 24, 32, 48),
    "width": (1, 2, 4, 8),
    "depth": (10, 16, 28, 40),
}
SAYS = {
    "branches": "K, branches of AFA's stage I",
    "members": "N, members under AFS's merger",
    "batch": "images per batch",
    "size": "image side in pixels",
    "width": "width of the network",
    "depth": "depth of the network",
}


def task_of(what: str, point: dict[str, int]) -> nn.Module:
    plain = network(point["depth"], point["width"])
    if what == "branches":
        return branch_task(plain, point["branches"], STEPS, split_batch=False)
    if what != "members":
        return pgd_task(plain, STEPS)
    schedule = Schedule(epochs=1, learning_rate=0.1)
    method = AFS(
        objective=PGDAT(),
        budgets=(8 / 255,) * point["members"],
        attack=TrainingAttack(steps=STEPS),
        schedule=schedule,
        merger_schedule=schedule,
    )
    return MergerTask(FeatureStack([plain] * point["members"], 10), method)


def one_point(what: str, value: int, rounds: int, threads: int, line: Any) -> None:
    """In a process of its own: median seconds of a step, and the process' peak memory."""
    torch.set_num_threads(threads)
    point = USUAL | {what: value}
    before = peak_kilobytes()
    step = our_step(task_of(what, point), *batch(point["batch"], point["size"]))
    step()
    wall, processor = [], []
    for _ in range(rounds):
        began, spent = time.perf_counter(), time.process_time()
        step()
        wall.append(time.perf_counter() - began)
        processor.append(time.process_time() - spent)
    peak = peak_kilobytes()
    middle = rounds // 2
    line.send(
        {
            what: value,
            "seconds": rounded(sorted(wall)[middle]),
            "processor_seconds": rounded(sorted(processor)[middle]),
            "megabytes_above_start": rounded((peak - before) / 1024),
        }
    )


def peak_kilobytes() -> int:
    """This process' own peak; ``ru_maxrss`` begins at that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measured(what: str, value: int, rounds: int, threads: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=one_point, args=(what, value, rounds, threads, there))
    process.start()
    there.close()
    found: dict[str, Any] = here.recv()
    process.join()
    print(json.dumps(found), flush=True)
    return found


KINDS = {"seconds": ("time", "s"), "megabytes_above_start": ("memory", "MB")}


def draw(curves: list[dict[str, Any]], file: Path) -> None:
    """One plot for each thing that grows: time and memory as multiples of the first point's."""
    with styled():
        figure = Canvas(figsize=(2 * WIDTH, WIDTH * 1.3), layout="constrained")
        for place, curve in zip(figure.subplots(2, 3).flat, curves, strict=True):
            sizes = [point[curve["grows"]] for point in curve["points"]]
            for (name, (kind, unit)), colour, mark in zip(
                KINDS.items(), COLOURS, MARKS, strict=False
            ):
                values = [point[name] for point in curve["points"]]
                said = f"{kind} ~ power {curve[f'exponent_of_{name}']:.2f}"
                said += f" ({values[0]:.3g} to {values[-1]:.3g} {unit})"
                times = [value / values[0] for value in values]
                place.loglog(sizes, times, color=colour, marker=mark, label=said)
            low, high = place.get_ylim()
            ticks = [2.0**power for power in range(-2, 9) if low <= 2.0**power <= high]
            place.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            place.set_xticks(sizes, [str(size) for size in sizes])
            place.set_title(SAYS[curve["grows"]])
            place.minorticks_off()
            place.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1))
        figure.supylabel("relative to the first point", fontsize=7)
        figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Run, print, write the record and the picture; ``--draw`` draws the record that is there."""
    if sys.argv[1:] == ["--draw"]:
        draw(read_json(Path(__file__).with_suffix(".json"))["curves"], PICTURE)
        return
    given = settings(__doc__, rounds=3)
    curves = []
    for what, values in POINTS.items():
        points = [measured(what, value, given.rounds, given.threads) for value in values]
        curve: dict[str, Any] = {"grows": what, "says": SAYS[what], "points": points}
        for name in ("seconds", "processor_seconds", "megabytes_above_start"):
            curve[f"exponent_of_{name}"] = exponent(values, [point[name] for point in points])
        print(f"{SAYS[what]}: time ~ {what}^{curve['exponent_of_seconds']:.2f}", flush=True)
        curves.append(curve)
    write(__file__, given, {"usual": USUAL, "steps": STEPS, "curves": curves})
    draw(curves, PICTURE)


if __name__ == "__main__":
    main()
