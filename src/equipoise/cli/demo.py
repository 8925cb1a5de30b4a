"""The command ``equipoise demo``."""

from pathlib import Path

from equipoise.cli.options import console, stopped
from equipoise.runtime.signals import Interrupted


def demo(out: Path = Path("runs/demo"), seed: int = 0) -> None:
    """Train four models on handwritten digits, attack them at five strengths, print one table.

    Takes a few minutes on two cores. Run again, it re-uses what is there.

    Args:
        out: Folder for runs, records and models.
        seed: Of everything random.
    """
    from equipoise.cli.progress import Terminal
    from equipoise.report import rich_table
    from equipoise.workflows.demo import demo as jobs_demo

    try:
        with Terminal(console) as terminal:
            records = jobs_demo(out, seed=seed, reporter=terminal.of)
    except Interrupted:
        stopped(f"equipoise demo --out {out} --seed {seed}")
    console.print(rich_table(records, "Who keeps both accuracies?"))
    console.print(f"Models, records and metrics are under {out}.", highlight=False, soft_wrap=True)
