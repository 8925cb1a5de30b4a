"""How far a perfect weight generator at each layer could go: AFA's accuracy at W0 = 1 and W0 = 0.

Norms that run before the layer have no weight yet and use a fixed branch, so at W0 = 1 the network
need not be its clean branch, nor at W0 = 0 its robust one. This script takes the trained branches
of AFA runs and measures both ends for several layers and both fixed branches, on validation images
held out of each run's training: clean accuracy, and accuracy under two PGD searches of 20 steps
(cross-entropy and margin) at the strongest training strength with W0 held fixed. No generator is
trained.

Run it from the repository: ``python benchmarks/gate_reach.py RUN...`` (half a minute a run of
``afa_digits``).
"""

import argparse
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.attacks import PGD
from equipoise.attacks.goals import cross_entropy, margin
from equipoise.attacks.threat import Linf
from equipoise.data import Split
from equipoise.methods import AFA
from equipoise.models import AtLayer, BranchedNetwork, fuse_branches
from equipoise.models.attack_mode.context import attack_mode
from equipoise.recipes import Recipe, from_json
from equipoise.runtime.environment import environment
from equipoise.runtime.files import read_json, write_json
from equipoise.runtime.seeds import derive_seed
from equipoise.training import load_weights

LAYERS = ("conv", "stages.0.0.conv1", "stages.0", "stages.1", "stages.2")
ENDS = (1.0, 0.0)


def branches_of(run: Path) -> tuple[Recipe, BranchedNetwork, Split]:
    """The recipe, the trained branches and the validation images of a run."""
    recipe: Recipe = from_json(read_json(run / "recipe.json"))
    data = recipe.dataset.load()
    held_out = recipe.loop.held_out(len(data.train))
    _, validation = data.train.hold_out(held_out, derive_seed(recipe.seed, "validation"))
    stage = recipe.method.stages(recipe.network.maker(data))[0]
    task: Any = stage.build({})
    load_weights(task, run / "stages" / stage.name, stage.keep)
    return recipe, task.outcome().eval(), validation


def accuracies(model: nn.Module, split: Split, epsilon: float) -> list[float]:
    """Clean and attacked accuracy at each end."""
    images, labels = split.batch(slice(None))
    found = []
    with attack_mode(model):
        for weight in ENDS:
            predict = partial(model, weight=weight)
            right = _right(predict(images), labels)
            found.append(float(right.double().mean()))
            for goal in (cross_entropy, margin):
                generator = torch.Generator().manual_seed(0)
                search = PGD(steps=20, relative_step=0.25, keep="best")
                moved = search(goal(predict, labels), images, Linf(epsilon), generator)
                right &= _right(predict(moved), labels)
            found.append(float(right.double().mean()))
    return found


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.argmax(dim=1) == labels


def main() -> None:
    """Measure all runs and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders of AFA")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    rows: dict[tuple[str, str], list[list[float]]] = {}
    for run in given.runs:
        recipe, branched, split = branches_of(run)
        assert isinstance(recipe.method, AFA)
        for layer in LAYERS:
            for before in ("robust", "clean"):
                placement = AtLayer(layer=layer, before=before)
                model = fuse_branches(branched, placement=placement, hidden=1).eval()
                row = accuracies(model, split, recipe.method.strengths[-1])
                rows.setdefault((layer, before), []).append(row)
    columns = ("clean at W0 = 1", "attacked at W0 = 1", "clean at W0 = 0", "attacked at W0 = 0")
    table = [
        {
            "layer": layer,
            "before": before,
            **{name: [row[at] for row in found] for at, name in enumerate(columns)},
        }
        for (layer, before), found in rows.items()
    ]
    for row in table:
        means = "  ".join(f"{100 * mean(row[name]):5.1f}" for name in columns)
        print(f"{row['layer']:18} {row['before']:7} {means}")
    runs = [run.name for run in given.runs]
    write_json(
        given.out,
        {
            "runs": runs,
            "images": len(split),
            "part": "validation",
            "epsilon": recipe.method.strengths[-1],
        }
        | {"rows": table, "environment": environment()},
    )


if __name__ == "__main__":
    main()
