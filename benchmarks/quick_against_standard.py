"""How far the suite `quick` is above `standard` and `adaptive`, on every digits model.

Run it from the repository: ``python benchmarks/quick_against_standard.py``. Each recipe is trained
once for each seed (runs are kept in the folder) and evaluated twice on the 450 test images at the
recipe's own strengths, nothing shared. Run again, it continues; ``--again`` repeats the
evaluations, for another state of the code. ``--show`` only prints the record.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from equipoise import load
from equipoise.api.train import train
from equipoise.attacks.threat import Linf
from equipoise.evaluation import Profile, measure_profile, suites_for
from equipoise.evaluation.suite import SuiteName
from equipoise.models import ConditionalNetwork
from equipoise.recipes import RECIPES
from equipoise.runtime.environment import environment
from equipoise.runtime.files import read_json, write_json

MODELS = (
    "standard_digits",
    "pgd_at_digits",
    "trades_digits",
    "mart_digits",
    "iat_digits",
    "fat_digits",
    "tla_digits",
    "lbgat_digits",
    "avm_digits",
    "random_budget_digits",
    "oat_digits",
    "afa_digits",
    "afa_trades_digits",
    "afs_digits",
    "afs_trades_digits",
)


def one_model(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train a model, and evaluate it with both."""
    recipe = replace(RECIPES[name](), seed=seed)
    if not (folder / "model").is_dir():
        train(recipe, folder, resume=folder.exists())
    split, model = recipe.dataset.load().test, load(folder / "model").requires_grad_(False)
    if isinstance(model, ConditionalNetwork):
        model = model.at(model.default)

    def measured(*suites: SuiteName) -> Profile:
        return measure_profile(
            model,
            split,
            threat=Linf,
            epsilons=recipe.evaluation.epsilons,
            suites=suites_for(
                model, suites, classes=split.classes, steps=recipe.evaluation.steps, seed=seed
            ),
            seed=seed,
        )

    quick, full = measured("quick"), measured("standard", "adaptive")
    left = quick.correct()
    for_each_part = []
    for part in quick.outcomes:
        broken = part.broken_at > 0
        for_each_part.append({"attack": part.name, "broke": int(broken.sum())})
    return {
        "model": name,
        "seed": seed,
        "images": len(split),
        "epsilons": quick.epsilons,
        "quick": quick.accuracy(),
        "standard adaptive": full.accuracy(),
        "left by quick alone": [int(row.sum()) for row in left & ~full.correct()],
        "left by standard adaptive alone": [int(row.sum()) for row in full.correct() & ~left],
        "parts of quick": for_each_part,
        "passes": {"quick": passes(quick), "standard adaptive": passes(full)},
    }


def passes(profile: Profile) -> int:
    """Images sent through the network, forwards and backwards."""
    return sum(part.forward_passes + part.backward_passes for part in profile.outcomes)


def line(row: dict[str, Any]) -> str:
    """One model in one line: accuracies at each strength, and the largest gap in points."""
    pairs = list(zip(row["quick"], row["standard adaptive"], strict=True))
    scores = "  ".join(f"{100 * a:.1f}/{100 * b:.1f}" for a, b in pairs)
    share = row["passes"]["quick"] / row["passes"]["standard adaptive"]
    broke = ", ".join(str(part["broke"]) for part in row["parts of quick"])
    return (
        f"{row['model']:22} {row['seed']}  gap {100 * max(a - b for a, b in pairs):.1f}  "
        f"{scores}  passes {share:.2f}  parts broke {broke}"
    )


def main() -> None:
    """Run what is missing, print a line a model, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/quick_against_standard"))
    parser.add_argument("--again", action="store_true", help="repeat the evaluations")
    parser.add_argument("--show", action="store_true", help="print the record, and run nothing")
    parser.add_argument("--record", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    rows = read_json(given.record)["models"] if given.record.exists() else []
    if given.show:
        print("\n".join(line(row) for row in rows))
        return
    for seed in given.seeds:
        for name in given.models:
            known = [row for row in rows if (row["model"], row["seed"]) == (name, seed)]
            if known and not given.again:
                continue
            row = one_model(name, seed, given.folder / f"{name}__seed{seed}")
            rows = [row if other in known else other for other in rows] + [row] * (not known)
            print(line(row), flush=True)
            write_json(given.record, {"models": rows, "environment": environment()})


if __name__ == "__main__":
    main()
