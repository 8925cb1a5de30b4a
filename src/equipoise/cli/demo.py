"""The command ``equipoise demo``."""

from pathlib import Path
from typing import Annotated

import tyro

from equipoise.cli.options import console, exit_interrupted, print_line
from equipoise.runtime.signals import Interrupted


def demo(
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/demo"),
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
) -> None:
    """Train four models on handwritten digits, attack them at five strengths, print one table.
    Takes a few minutes on two cores.

    Args:
        out: Folder for runs, records and models; finished runs in it are reused.
        seed: Random seed for weights, data order and attacks.
    """
    from equipoise.api.demo import demo as run_demo
    from equipoise.report import rich_table
    from equipoise.runtime.progress import Terminal

    try:
        with Terminal(console) as terminal:
            records = run_demo(out, seed=seed, reporter=terminal.named)
    except Interrupted:
        exit_interrupted(f"equipoise demo --out {out} --seed {seed}")
    console.print(rich_table(records, "Clean and robust accuracy on digits"))
    print_line(f"Models, records and metrics are under {out}.")
