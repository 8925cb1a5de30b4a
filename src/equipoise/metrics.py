"""Training curves: one line an epoch in metrics.jsonl, and the same for TensorBoard."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from equipoise import runs

METRICS = "metrics.jsonl"


@contextlib.contextmanager
def metrics_log(folder: Path, epoch: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Open a stage's curves for appending; what a resume will repeat is dropped first.

    Args:
        folder: Of the stage.
        epoch: Where training goes on; lines of this epoch and later ones are dropped.

    Returns:
        A context manager that gives a function, which writes one epoch's entry.

    Raises:
        RunError: If a line cannot be written.
    """
    from torch.utils.tensorboard import SummaryWriter

    path = folder / METRICS
    lines = path.read_text().splitlines() if path.exists() else []
    kept = []
    for line in lines:
        with contextlib.suppress(ValueError, KeyError):  # a line cut short by a kill
            if json.loads(line)["epoch"] < epoch:
                kept.append(line)
    runs.write_bytes(path, "".join(line + "\n" for line in kept).encode())
    board = folder / "tensorboard"
    if not kept:
        shutil.rmtree(board, ignore_errors=True)
    writer = SummaryWriter(str(board), purge_step=epoch)

    def write(entry: dict[str, Any]) -> None:
        try:
            with path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise runs.RunError(
                f"cannot write {path} ({error.strerror}); free some space and run again with "
                "--resume."
            ) from error
        for part in ("train", "validation"):
            for name, value in entry.get(part, {}).items():
                writer.add_scalar(f"{part}/{name}", value, entry["epoch"])

    try:
        yield write
    finally:
        writer.close()
