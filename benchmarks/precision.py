"""What bfloat16 costs in accuracy: in a search, and in training.

Run it from the repository: ``python benchmarks/precision.py``. PGD-AT is trained on digits in
float32 and in bf16-mixed from the same seeds; each model is searched in both precisions with equal
steps and random starts, and all that is found is judged in float32.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from timing import rounded, settings
from timing import write_record as write

from equipoise import jobs
from equipoise.attacks import PGD
from equipoise.evaluation import Suite, profile
from equipoise.evaluation.attack import SearchAttack
from equipoise.recipes import RECIPES
from equipoise.threat import Linf

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
        model = jobs.train(recipe, Path(folder) / "run", dataset=data)
    search = PGD(steps=20, relative_step=0.25, keep="best")
    attack = SearchAttack(name="pgd-margin", search=search, loss="margin")
    epsilons = recipe.evaluation.epsilons
    right = {}
    for searched in PRECISIONS:
        found = profile(
            model,
            data.test.take(slice(0, images)),
            threat=Linf,
            epsilons=epsilons,
            suites=[Suite(name="pgd", attacks=(attack,))],
            seed=0,
            precision=searched,  # type: ignore[arg-type]
        )
        right[searched] = found.correct()
    full, half = (right[name] for name in PRECISIONS)
    row = {
        "trained": precision,
        "seed": seed,
        "epsilons": list(epsilons),
        "accuracy_searched_in_float32": [rounded(part.double().mean()) for part in full],
        "accuracy_searched_in_bf16": [rounded(part.double().mean()) for part in half],
        "broken_by_float32_alone": [int(n) for n in (half & ~full).sum(dim=1)],
        "broken_by_bf16_alone": [int(n) for n in (full & ~half).sum(dim=1)],
    }
    print(
        f"trained in {precision}, seed {seed}: float32 search "
        f"{row['accuracy_searched_in_float32']}, bf16 search {row['accuracy_searched_in_bf16']}",
        flush=True,
    )
    return row


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
    for name in ("broken_by_float32_alone", "broken_by_bf16_alone"):
        summary[name] = [sum(column) for column in zip(*(row[name] for row in rows), strict=True)]
    for precision in PRECISIONS:
        own = [row["accuracy_searched_in_float32"] for row in rows if row["trained"] == precision]
        means = [rounded(sum(column) / len(own)) for column in zip(*own, strict=True)]
        summary[f"mean_accuracy_trained_in_{precision}"] = means
    print(summary)
    write(__file__, given, {"models": rows, "summary": summary})


if __name__ == "__main__":
    main()
