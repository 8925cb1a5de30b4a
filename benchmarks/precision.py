"""What bfloat16 costs in accuracy: in a search, and in training.

Run it from the repository: ``python benchmarks/precision.py``. PGD-AT is trained on digits in
float32 and in bf16-mixed from the same seeds; each model is searched in both precisions with equal
steps from the same random starts, and in float32 from other ones, which says how much of a
difference is a start's. All that is found is judged in float32.
"""

import contextlib
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timing import rounded, settings
from timing import write_record as write

from equipoise.api.train import train
from equipoise.attacks import PGD
from equipoise.attacks.goals import misclassified
from equipoise.attacks.threat import Linf
from equipoise.data import Split
from equipoise.evaluation.attack import SearchAttack
from equipoise.models.attack_mode.context import attack_mode
from equipoise.recipes import RECIPES

PRECISIONS = ("32-true", "bf16-mixed")


def one_model(precision: Any, seed: int, epochs: int, images: int) -> dict[str, Any]:
    """Train, then search in both precisions."""
    recipe = RECIPES["pgd_at_digits"]()
    method: Any = recipe.method
    method = replace(method, schedule=replace(method.schedule, epochs=epochs))
    loop = replace(recipe.loop, precision=precision)
    recipe = replace(recipe, method=method, loop=loop, seed=seed)
    data = recipe.dataset.load()
    with tempfile.TemporaryDirectory() as folder:
        model = train(recipe, Path(folder) / "run", dataset=data)
    test = data.test.take(slice(0, images))
    epsilons = tuple(epsilon for epsilon in recipe.evaluation.epsilons if epsilon > 0)
    full, half, other = (
        torch.stack([held(model, test, epsilon, start, searched) for epsilon in epsilons])
        for start, searched in ((0, torch.float32), (0, torch.bfloat16), (1, torch.float32))
    )
    row = {
        "trained": precision,
        "seed": seed,
        "epsilons": list(epsilons),
        "accuracy_searched_in_float32": [rounded(part.double().mean()) for part in full],
        "accuracy_searched_in_bf16": [rounded(part.double().mean()) for part in half],
        "broken_by_float32_alone": counted(half & ~full),
        "broken_by_bf16_alone": counted(full & ~half),
        "broken_by_one_start_alone": counted(other & ~full),
        "broken_by_another_start_alone": counted(full & ~other),
    }
    print(
        f"trained in {precision}, seed {seed}: float32 search "
        f"{row['accuracy_searched_in_float32']}, bf16 search {row['accuracy_searched_in_bf16']}",
        flush=True,
    )
    return row


def held(model: Any, test: Split, epsilon: float, start: int, dtype: torch.dtype) -> torch.Tensor:
    """Which images hold against one search, whose starts a seed gives."""
    search = PGD(steps=20, relative_step=0.25, keep="best")
    attack = SearchAttack(name="pgd-margin", search=search, loss="margin")
    images, labels = test.batch(slice(None))
    whole = dtype is torch.float32
    precision = contextlib.nullcontext if whole else partial(torch.autocast, "cpu", dtype)
    generator = torch.Generator().manual_seed(start)
    with attack_mode(model), torch.no_grad():
        right = ~misclassified(model(images), labels)
        found = attack.run(model, images, labels, Linf(epsilon), generator, precision)
    return right & ~found.broken


def counted(images: torch.Tensor) -> list[int]:
    return [int(number) for number in images.sum(dim=1)]


def main() -> None:
    """Run, print, write the record."""
    given = settings(__doc__, seeds=2, epochs=15, images=300)
    rows = [
        one_model(precision, seed, given.epochs, given.images)
        for seed in range(given.seeds)
        for precision in PRECISIONS
    ]
    images = given.images * len(rows)
    summary: dict[str, Any] = {"images_searched_at_each_strength": images}
    for name in [name for name in rows[0] if name.startswith("broken_by")]:
        summary[name] = [sum(column) for column in zip(*(row[name] for row in rows), strict=True)]
    for precision in PRECISIONS:
        own = [row["accuracy_searched_in_float32"] for row in rows if row["trained"] == precision]
        means = [rounded(sum(column) / len(own)) for column in zip(*own, strict=True)]
        summary[f"mean_accuracy_trained_in_{precision}"] = means
    print(summary)
    write(__file__, given, {"models": rows, "summary": summary})


if __name__ == "__main__":
    main()
