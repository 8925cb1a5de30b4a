"""R_free on the digits model of AFA: what each part of its search finds, and a wider range of W0.

Run it from the repository: ``python benchmarks/free_gate.py MODEL`` (a few minutes on one core). It
writes the table of decision 033; ``--page`` only writes the table from the record.
"""

import argparse
from pathlib import Path
from typing import Any
from unittest import mock

from equipoise import load
from equipoise.attacks.threat import Linf
from equipoise.evaluation import free_gate as module
from equipoise.evaluation import measure_profile, suites_for
from equipoise.evaluation.free_gate import free_gate
from equipoise.models import AdaptiveNetwork
from equipoise.models.io.model_folder import read_config
from equipoise.recipes.datasets import source_of
from equipoise.runtime.environment import environment
from equipoise.runtime.files import read_json, write_bytes, write_json

EPSILONS = (0.0, 0.1, 0.2)
SEARCHES: dict[str, dict[str, tuple[float, ...]]] = {
    "": {"GRID": module.GRID},
    ", joint search alone": {"ENDS": ()},
    ", `quick` at the ends of the range alone": {"GRID": ()},
}
"""By name of the search: constants of ``evaluation.free_gate`` that are changed."""
PAGE = Path(__file__).resolve().parents[1] / "docs" / "decisions" / "033-free-gate.md"
BEGIN, END = "<!-- free gate -->\n", "<!-- end free gate -->\n"


def rows_of(folder: Path, seed: int) -> list[dict[str, Any]]:
    """The score, and R_free by every search and range."""
    card = read_config(folder / "model")["card"]
    split, model = source_of(card, None).load().test, load(folder / "model").requires_grad_(False)
    if not isinstance(model, AdaptiveNetwork):
        raise SystemExit(f"{folder} is not a model of AFA.")
    suites = suites_for(model, ["quick", "adaptive"], classes=split.classes, seed=seed)
    profile = measure_profile(
        model, split, threat=Linf, epsilons=EPSILONS, suites=suites, seed=seed
    )
    rows = [{"name": "score", "images": len(split), "accuracy": profile.accuracy()}]
    for ceiling in (model.ceiling, 1.0):
        model.ceiling = ceiling
        for name, constants in SEARCHES.items():
            with mock.patch.multiple(module, **constants):
                found = free_gate(model, split, profile, threat=Linf, seed=seed)
            rows.append(
                {
                    "name": f"R_free, W0 up to {ceiling:g}{name}",
                    "images": len(split),
                    "accuracy": found["accuracy"],
                }
            )
            print(rows[-1], flush=True)
    return rows


def write_page(record: dict[str, Any]) -> None:
    """Replace the table between the markers of the decision."""
    titles = " | ".join("clean" if epsilon == 0 else f"{epsilon:g}" for epsilon in EPSILONS)
    lines = [f"| images that survive, of {record['rows'][0]['images']} | {titles} |", "|---|"]
    lines[1] += "---:|" * len(EPSILONS)
    for row in record["rows"]:
        counts = [str(round(share * row["images"])) for share in row["accuracy"]]
        lines.append(f"| {row['name']} | {' | '.join(counts)} |")
    head, rest = PAGE.read_text().split(BEGIN)
    table = "\n".join(lines) + "\n"
    write_bytes(PAGE, (head + BEGIN + table + END + rest.split(END)[1]).encode())


def main() -> None:
    """Measure, write the record and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, nargs="?", help="a run folder of afa_digits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", action="store_true", help="only write the table")
    record = Path(__file__).with_suffix(".json")
    given = parser.parse_args()
    if not given.page:
        rows = rows_of(given.model, given.seed)
        write_json(record, {"seed": given.seed, "rows": rows, "environment": environment()})
    write_page(read_json(record))


if __name__ == "__main__":
    main()
