"""The command ``equipoise demo``."""

from pathlib import Path

from equipoise.cli.options import Folder, Number, console, exit_interrupted, print_line
from equipoise.runtime.signals import Interrupted


def demo(
    *,
    out: Folder = Path("runs/demo"),
    seed: Number = 0,
) -> None:
    """Train four models on handwritten digits, evaluate them on clean images and at four strengths,
    print one table.
    Takes ten to fifteen minutes on two cores.

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
