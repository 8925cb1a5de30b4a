"""Choose the compact CIFAR-10 network on validation images, at equal CPU seconds.

Every shape gets as many epochs of one-step PGD-AT as fit into the budget. The cost of a step is
measured first, all shapes taking turns with one thread, so a busy machine does not change how long
a shape is trained. A candidate's score is (clean + strongest)/2 in percent on images held out of
its own training; test images are never read.

Run it from the repository: ``python benchmarks/choose_network.py --data FOLDER``. Run again, it
continues; the record is written after every candidate.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from steps import batch, our_step, pgd_task
from timing import take_turns

from equipoise.api.evaluate import evaluate
from equipoise.api.train import train
from equipoise.data import Cifar10
from equipoise.execution.process_pool import side_by_side
from equipoise.methods import SingleNetwork, TrainingAttack
from equipoise.models import count_multiply_adds, count_parameters
from equipoise.objectives import PGDAT
from equipoise.recipes import RECIPES, Evaluation, Recipe, ResNet9Shape, WideResNetShape, to_json
from equipoise.records.files import read_record
from equipoise.runtime.environment import environment
from equipoise.runtime.files import read_json, write_json
from equipoise.runtime.reporter import NullReporter, Reporter
from equipoise.training.schedule import Schedule

RECORD = Path(__file__).with_suffix(".json")
TOP = 8 / 255
VALIDATION = 2000
BATCH = 128
SHAPES: dict[str, Any] = {
    "wrn-10-2": WideResNetShape(depth=10, width=2),
    "24-48-96-192": ResNet9Shape(widths=(24, 48, 96, 192), residual=(1, 1, 1)),
    "24-48-96-192 average": ResNet9Shape(
        widths=(24, 48, 96, 192), residual=(1, 1, 1), pooling="average"
    ),
    "24-48-96-192 silu": ResNet9Shape(
        widths=(24, 48, 96, 192), residual=(1, 1, 1), activation="silu"
    ),
    "24-48-96-192 plain": ResNet9Shape(widths=(24, 48, 96, 192), residual=(0, 0, 0)),
    "16-48-96-192": ResNet9Shape(widths=(16, 48, 96, 192), residual=(1, 1, 1)),
    "24-32-96-192": ResNet9Shape(widths=(24, 32, 96, 192), residual=(1, 1, 1)),
    "16-32-96-256": ResNet9Shape(widths=(16, 32, 96, 256), residual=(0, 1, 1)),
    "32-64-128-256": ResNet9Shape(widths=(32, 64, 128, 256), residual=(1, 1, 1)),
    "32-64-128-256 page": ResNet9Shape(widths=(32, 64, 128, 256), residual=(2, 0, 2)),
}
"""Width of stem and groups, and what else differs."""


def seconds_of_steps(rounds: int) -> dict[str, float]:
    """CPU seconds of a training step of each shape: the median of rounds, taking turns."""
    dataset: Any = type("Data", (), {"classes": 10, "channels": 3})()
    runs = {
        name: our_step(pgd_task(shape.maker(dataset)(), 1), *batch(BATCH))
        for name, shape in SHAPES.items()
    }
    turns = take_turns(runs, rounds)
    return {name: median(seconds) for name, seconds in turns.processor.items()}


def recipe(name: str, epochs: int, seed: int, data: Path) -> Recipe:
    """PGD-AT of one shape."""
    method = SingleNetwork(
        objective=PGDAT(),
        epsilon=TOP,
        attack=TrainingAttack(steps=1, relative_step=1.25, warm_up=0.3),
        schedule=Schedule(epochs=epochs, learning_rate=0.2, shape="one_cycle"),
    )
    base = RECIPES["pgd_at_cifar10_compact"]()
    return replace(
        base,
        name=name.replace(" ", "_"),
        dataset=Cifar10(folder=data),
        network=SHAPES[name],
        method=method,
        seed=seed,
        loop=replace(base.loop, batch_size=BATCH, validation_images=VALIDATION, validate_every=99),
        evaluation=Evaluation(
            epsilons=(0.0, TOP), suites=("quick",), steps=10, part="validation", images=1000
        ),
    )


def one(candidate: Recipe, folder: Path, *, reporter: Reporter) -> dict[str, Any]:
    """Train and evaluate one candidate; ``folder`` is its run folder."""
    began = os.times()
    train(candidate, folder, resume=True, reporter=NullReporter())
    took = os.times()
    records = sorted((folder / "records").glob("*.json"))
    record = read_record(records[0]) if records else evaluate(folder, checks=False)[0]
    accuracy = record["headline"]["accuracy"]
    return {
        "clean": accuracy[0],
        "strongest": accuracy[-1],
        "score": round(50 * (accuracy[0] + accuracy[-1]), 2),
        "cpu_seconds": round(took.user + took.system - began.user - began.system, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/choose_network"))
    parser.add_argument("--minutes", type=float, default=8.0, help="CPU minutes of each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[300])
    parser.add_argument("--only", nargs="*", default=list(SHAPES))
    given = parser.parse_args()
    torch.set_num_threads(1)
    document: dict[str, Any] = read_json(RECORD) if RECORD.exists() else {"candidates": []}
    if "seconds_a_step" not in document:
        document["seconds_a_step"] = seconds_of_steps(rounds=7)
    steps = (50_000 - VALIDATION) // BATCH
    dataset: Any = type("Data", (), {"classes": 10, "channels": 3})()
    for seed in given.seeds:
        for name in given.only:
            done = {(row["name"], row["seed"], row["minutes"]) for row in document["candidates"]}
            if (name, seed, given.minutes) in done:
                continue
            epoch = steps * document["seconds_a_step"][name]
            epochs = max(1, round(60 * given.minutes / epoch))
            candidate = recipe(name, epochs, seed, given.data)
            folder = given.folder / f"{candidate.name}__{given.minutes:g}__seed{seed}"
            work = {name: (one, (candidate, folder))}
            result = side_by_side(work, workers=1, threads=1, reporter=lambda name: NullReporter())
            network = SHAPES[name].maker(dataset)()
            document["candidates"].append(
                {
                    "name": name,
                    "seed": seed,
                    "minutes": given.minutes,
                    "epochs": epochs,
                    "planned_seconds": round(epochs * epoch, 1),
                    "parameters": count_parameters(network),
                    "multiply_adds": count_multiply_adds(network, (3, 32, 32)),
                    "network": to_json(candidate)["network"],
                    **result[name],
                }
            )
            document["environment"] = environment()
            write_json(RECORD, document)
            print(name, seed, epochs, result[name], flush=True)


if __name__ == "__main__":
    main()
