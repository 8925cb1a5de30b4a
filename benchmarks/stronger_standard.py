"""What stronger forms of the suite standard would leave, and what they would cost.

Run it from the repository: ``python benchmarks/stronger_standard.py MODEL...``; models of digits
(a minute and a half each). Beside ``standard`` as it is, its searches get more targets, steps and
queries. ``against_autoattack.json`` has what AutoAttack leaves of the same images.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from equipoise import load, runs
from equipoise.attacks import APGD, Square
from equipoise.evaluation import profile, suites_for
from equipoise.judge import source_of
from equipoise.models.folder import read_config
from equipoise.threat import Linf

FORMS: dict[str, dict[str, dict[str, Any]]] = {
    "as it is": {},
    "margin 50 steps": {"apgd-targeted-margin": {"search": APGD(steps=50)}},
    "margin 50 steps, DLR to 9": {
        "apgd-targeted-margin": {"search": APGD(steps=50)},
        "apgd-targeted-dlr-3": {"search": APGD(steps=50), "targets": 9},
    },
    "margin 100 steps, DLR to 9 in 100, Square 1000": {
        "apgd-targeted-margin": {"search": APGD(steps=100)},
        "apgd-targeted-dlr-3": {"search": APGD(steps=100), "targets": 9},
        "square-500": {"search": Square(queries=1000)},
    },
}


def one_model(folder: Path) -> list[dict[str, Any]]:
    """Every form against one model."""
    place = folder / "model"
    card = read_config(place)["card"]
    split, epsilon = source_of(card, None).load().test, max(card["evaluation"]["epsilons"])
    model, rows = load(place), []
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    (suite,) = suites_for(model, ["standard"], classes=split.classes, seed=0)
    for form, changes in FORMS.items():
        unknown = changes.keys() - {attack.name for attack in suite.attacks}
        if unknown:
            raise ValueError(f"standard has no attack named {sorted(unknown)}.")
        attacks = tuple(replace(each, **changes.get(each.name, {})) for each in suite.attacks)
        began = time.monotonic()
        changed = [replace(suite, attacks=attacks)]
        found = profile(model, split, threat=Linf, epsilons=(epsilon,), suites=changed, seed=0)
        row = {
            "model": card["name"],
            "seed": card["seed"],
            "epsilon": epsilon,
            "images": len(split),
            "form": form,
            "accuracy": round(float(found.correct()[-1].double().mean()), 4),
            "passes": sum(each.forward_passes + each.backward_passes for each in found.tried),
            "seconds": round(time.monotonic() - began, 1),
        }
        print(row, flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """Run, print a line a form, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--record", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    rows = [row for folder in given.models for row in one_model(folder)]
    runs.write_json(given.record, {"rows": rows, "environment": runs.environment()})


if __name__ == "__main__":
    main()
