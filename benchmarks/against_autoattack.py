"""Our standard suite against AutoAttack: strength and time, and AutoAttack's own verdicts.

Run it from the repository: ``python benchmarks/against_autoattack.py MODEL... --images 500``. Each
model is attacked at its strongest epsilon three times, nothing shared: by pyautoattack alone, by
our engine with the suite ``autoattack``, and by our engine with ``standard`` and ``adaptive``. The
first two must agree image by image; ``--engine`` leaves the first one out, where that is known.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from equipoise import load
from equipoise.attacks.threat import THREATS
from equipoise.evaluation import measure_profile, suites_for
from equipoise.models import ConditionalNetwork
from equipoise.models.io.model_folder import read_config
from equipoise.recipes import Evaluation, from_json
from equipoise.recipes.datasets import source_of
from equipoise.runtime.environment import environment
from equipoise.runtime.files import read_json, write_json


def by_the_package(model: Any, split: Any, norm: str, epsilon: float, seed: int) -> torch.Tensor:
    """Which images AutoAttack leaves right, by its own package alone."""
    from pyautoattack import AutoAttack

    judge = AutoAttack(model, norm=norm, eps=epsilon, seed=seed, device="cpu", version="standard")
    images, labels = split.batch(slice(None))
    found, _ = judge.run_standard_evaluation(images, labels, batch_size=256)
    with torch.no_grad():
        answers = [model(part).argmax(dim=1) for part in found.split(256)]
    return torch.cat(answers) == labels


def one_model(
    folder: Path, images: int, seed: int, data: Path | None, package: bool, preference: float | None
) -> dict[str, Any]:
    """The evaluations of one model."""
    place = folder / "model" if (folder / "model").is_dir() else folder
    card = read_config(place)["card"]
    judge: Evaluation = from_json(card["evaluation"], Evaluation)
    split = source_of(card, data).load().test.take(slice(0, images))
    model, epsilon = load(place), max(judge.epsilons)
    name = card["name"]
    if isinstance(model, ConditionalNetwork):
        preference = model.default if preference is None else preference
        model, name = model.at(preference), f"{name}@{preference:g}"
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    row: dict[str, Any] = {"model": name, "seed": card["seed"], "epsilon": epsilon}

    reference = None
    if package:
        began = time.monotonic()
        reference = by_the_package(model, split, judge.norm, epsilon, seed)
        row["pyautoattack"] = {
            "accuracy": float(reference.double().mean()),
            "seconds": round(time.monotonic() - began, 1),
        }
    for which, suites in (("autoattack", ["autoattack"]), ("ours", ["standard", "adaptive"])):
        began = time.monotonic()
        found = measure_profile(
            model,
            split,
            threat=THREATS[judge.norm],
            epsilons=(epsilon,),
            suites=suites_for(model, suites, classes=split.classes, seed=seed),  # type: ignore[arg-type]
            seed=seed,
        )
        right = found.correct()[-1]
        if reference is None:
            reference = right
        row[which] = {
            "accuracy": float(right.double().mean()),
            "seconds": round(time.monotonic() - began, 1),
            "right_here_and_broken_by_autoattack": int((right & ~reference).sum()),
            "broken_here_and_right_under_autoattack": int((~right & reference).sum()),
            "broke": {
                f"{tried.suite}/{tried.name}": int((tried.broken_at > 0).sum())
                for tried in found.outcomes
            },
            "backward_passes": sum(tried.backward_passes for tried in found.outcomes),
            "forward_passes": sum(tried.forward_passes for tried in found.outcomes),
            "seconds_by_attack": {
                f"{tried.suite}/{tried.name}": tried.seconds for tried in found.outcomes
            },
        }
    return row


def main() -> None:
    """Run, print a line a model, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--engine", action="store_true", help="leave out the package alone")
    parser.add_argument("--preference", type=float, help="OAT's lambda")
    parser.add_argument("--record", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if given.record.exists():
        rows = read_json(given.record)["models"]
    for folder in given.models:
        row = one_model(
            folder, given.images, given.seed, given.data, not given.engine, given.preference
        )
        row["images"] = given.images
        key = ("model", "seed", "images")
        rows = [old for old in rows if any(old[name] != row[name] for name in key)] + [row]
        theirs, ours = row["autoattack"], row["ours"]
        alone = row.get("pyautoattack")
        print(
            f"{row['model']}: AutoAttack {100 * theirs['accuracy']:.1f} in {theirs['seconds']} s"
            + (
                f" (alone {100 * alone['accuracy']:.1f} in {alone['seconds']} s, differing on "
                f"{theirs['right_here_and_broken_by_autoattack']} and "
                f"{theirs['broken_here_and_right_under_autoattack']} images)"
                if alone
                else ""
            )
            + f"; ours {100 * ours['accuracy']:.1f} in {ours['seconds']} s",
            flush=True,
        )
        write_json(
            given.record,
            {"seed": given.seed, "models": rows, "environment": environment()},
        )


if __name__ == "__main__":
    main()
