"""What each attack of the suite standard is worth, and what other steps and targets would be.

Run it from the repository: ``python benchmarks/standard_parts.py MODEL...``; models of digits (two
to three minutes each). Every attack sees every image that is right without one, so that its own
strength shows; a form of the suite is what some of them leave together. AutoAttack runs beside
them, on the same images.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from equipoise import load
from equipoise.attacks import APGD, Square
from equipoise.attacks.threat import Linf
from equipoise.evaluation import SearchAttack, Suite, measure_profile, suites_for
from equipoise.models.io.model_folder import read_config
from equipoise.recipes.datasets import source_of
from equipoise.runtime.environment import environment
from equipoise.runtime.files import write_json

ALWAYS = ("pgd-margin", "apgd-cross-entropy", "apgd-dlr")
FORMS = (
    ("margin to 9, 30 steps", "square-500"),
    ("margin to 9, 30 steps", "square-1000"),
    ("margin to 4, 100 steps", "square-1000"),
    ("margin to 9, 100 steps", "square-500"),
    ("margin to 9, 100 steps", "square-1000"),
    ("margin to 9, 100 steps", "square-5000"),
    ("DLR to 9, 100 steps", "square-1000"),
)


def parts_of(suite: Suite) -> list[SearchAttack]:
    """The suite's attacks, the targeted one and Square with other settings."""
    attacks = {attack.name: attack for attack in suite.attacks}
    targeted, square = attacks["apgd-targeted-margin-9"], attacks["square-1000"]
    dlr, always = attacks["apgd-dlr"], [attacks[name] for name in ALWAYS]
    margins = [
        replace(
            targeted,
            name=f"margin to {targets}, {steps} steps",
            search=APGD(steps=steps),
            targets=targets,
        )
        for targets, steps in ((9, 30), (4, 100), (9, 100))
    ]
    squares = [
        replace(square, name=f"square-{queries}", search=Square(queries=queries))
        for queries in (500, 1000, 5000)
    ]
    return [
        *always[:2],
        replace(dlr, name="apgd-margin", loss="margin"),
        dlr,
        *margins,
        replace(targeted, name="DLR to 9, 100 steps", loss="targeted_dlr"),
        *squares,
    ]


def one_model(folder: Path) -> dict[str, Any]:
    """Every part, every form and AutoAttack against one model."""
    card = read_config(folder / "model")["card"]
    split, epsilon = source_of(card, None).load().test, max(card["evaluation"]["epsilons"])
    model = load(folder / "model").requires_grad_(False)
    images, labels = split.batch(slice(None))
    with torch.no_grad():
        rows = (model(images).argmax(dim=1) == labels).nonzero().squeeze(1)
    standard, autoattack = suites_for(
        model, ["standard", "autoattack"], classes=split.classes, seed=0
    )
    broken, alone = {}, {}
    for number, part in enumerate(parts_of(standard)):
        generator = torch.Generator().manual_seed(number)
        found = part.run(model, images[rows], labels[rows], Linf(epsilon), generator)
        broken[part.name] = found.broken
        alone[part.name] = {
            "accuracy": _left(found.broken, len(split)),
            "passes": found.forward_passes + found.backward_passes,
        }
    judged = measure_profile(
        model, split, threat=Linf, epsilons=(epsilon,), suites=[autoattack], seed=0
    )
    reference = ~judged.correct()[-1][rows]
    forms = []
    for names in FORMS:
        together = torch.stack([broken[name] for name in (*ALWAYS, *names)]).any(dim=0)
        forms.append(
            {
                "with": names,
                "accuracy": _left(together, len(split)),
                "left_here_and_broken_by_autoattack": int((reference & ~together).sum()),
                "broken_here_and_left_by_autoattack": int((together & ~reference).sum()),
            }
        )
    return {
        "model": card["name"],
        "seed": card["seed"],
        "epsilon": epsilon,
        "images": len(split),
        "alone": alone,
        "always": ALWAYS,
        "forms": forms,
        "autoattack": _left(reference, len(split)),
    }


def _left(broken: torch.Tensor, images: int) -> float:
    return round(int((~broken).sum()) / images, 4)


def main() -> None:
    """Run, print a line a form, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--record", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    rows = []
    for folder in given.models:
        rows.append(one_model(folder))
        print(rows[-1]["model"], rows[-1]["seed"], "AutoAttack", rows[-1]["autoattack"])
        for form in rows[-1]["forms"]:
            print("  ", form, flush=True)
    write_json(given.record, {"models": rows, "environment": environment()})


if __name__ == "__main__":
    main()
