"""A five-strength profile with AutoAttack: our engine against five runs of pyautoattack.

Run it from the repository: ``python benchmarks/strengths.py``. It trains a small network first.
"""

import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from timing import rounded, settings
from timing import write_record as write
from torch import Tensor, nn

from equipoise.attacks.threat import Linf
from equipoise.data import Split
from equipoise.evaluation import SearchOptions, measure_profile, suites_for
from equipoise.execution.local import execute
from equipoise.recipes import RECIPES

EPSILONS = (0.04, 0.08, 0.12, 0.16, 0.2)


def small_network() -> nn.Module:
    """Three convolutions with norms: AutoAttack asks a network tens of thousands of times."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )


def trained(epochs: int) -> tuple[nn.Module, Split]:
    """PGD-AT on digits, and the test images."""
    recipe = RECIPES["pgd_at_digits"]()
    method: Any = recipe.method
    method = replace(method, schedule=replace(method.schedule, epochs=epochs))
    data = recipe.dataset.load()
    fabric = Fabric(accelerator="cpu", devices=1, precision=recipe.loop.precision)
    fabric.launch()
    with tempfile.TemporaryDirectory() as folder:
        model, _ = execute(
            method.stages(small_network),
            train=data.train,
            loop=recipe.loop,
            folder=Path(folder),
            seed=0,
            fabric=fabric,
        )
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval(), data.test


def ours(model: nn.Module, split: Split, order: Any) -> Tensor:
    """Which images are right at each strength, by our engine."""
    found = measure_profile(
        model,
        split,
        threat=Linf,
        epsilons=EPSILONS,
        suites=suites_for(model, ["autoattack"], classes=split.classes),
        seed=0,
        options=SearchOptions(order=order),
    )
    return found.correct()[1:]


def package(model: nn.Module, split: Split, batch_size: int = 256) -> Tensor:
    """The same by the package alone: one run a strength, as its users write it. What is broken at
    a strength counts as broken above it."""
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    images, labels = split.batch(slice(None))
    rows = []
    for epsilon in EPSILONS:
        judge = AutoAttack(model, norm="Linf", eps=epsilon, seed=0, device="cpu")
        found, _ = judge.run_standard_evaluation(images, labels, batch_size=batch_size)
        with torch.no_grad():
            rows.append(model(found).argmax(dim=1) == labels)
    return torch.stack(rows).int().cummin(dim=0).values.bool()


def timed(call: Callable[[], Tensor]) -> tuple[Tensor, float, float]:
    began, spent = time.perf_counter(), time.process_time()
    found = call()
    return found, time.perf_counter() - began, time.process_time() - spent


def main() -> None:
    """Run, print, write the record."""
    given = settings(__doc__, images=450, epochs=30, orders="descending", other_batch=100)
    model, test = trained(given.epochs)
    split = test.take(slice(0, given.images))
    verdicts, wall, processor = timed(lambda: package(model, split))
    lines = []
    for order in given.orders.split():
        right, own_wall, own_processor = timed(lambda order=order: ours(model, split, order))
        line = {
            "what": f"AutoAttack at {len(EPSILONS)} strengths, {given.images} digits",
            "ours": f"our engine, {order}",
            "against": f"{len(EPSILONS)} runs of pyautoattack",
            "sense": "cost",
            "goal": 0.4 if order == "descending" else None,
            "rounds": 1,
            "seconds": {"ours": rounded(own_wall), "against": rounded(wall)},
            "ratio": {"median": rounded(own_wall / wall)},
            "ratio_of_processor_seconds": {"median": rounded(own_processor / processor)},
            "verdicts": verdicts.numel(),
            "right_here_and_broken_by_the_package": int((right & ~verdicts).sum()),
            "broken_here_and_right_by_the_package": int((~right & verdicts).sum()),
            "accuracy": [rounded(row.double().mean()) for row in right],
        }
        lines.append(line)
        print(
            f"{line['ours']}: {own_wall:.1f} s against {wall:.1f} s, ratio "
            f"{line['ratio']['median']:.2f} (processor "
            f"{line['ratio_of_processor_seconds']['median']:.2f}); "
            f"{int((right != verdicts).sum())} of {verdicts.numel()} verdicts differ",
            flush=True,
        )
    # Random starts are drawn for the rows of a batch, so other batches see other starts.
    again = package(model, split, given.other_batch)
    itself = {
        "batch_sizes": [256, given.other_batch],
        "verdicts": verdicts.numel(),
        "differ": int((again != verdicts).sum()),
        "accuracy": [rounded(row.double().mean()) for row in again],
    }
    print(f"the package in batches of {given.other_batch}: {itself['differ']} verdicts differ")
    accuracy = [rounded(row.double().mean()) for row in verdicts]
    found = {"epsilons": EPSILONS, "accuracy": accuracy, "comparisons": lines}
    write(__file__, given, found | {"package_against_itself": itself})


if __name__ == "__main__":
    main()
