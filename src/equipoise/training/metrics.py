"""Training curves: one line per epoch in metrics.jsonl."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from equipoise.runtime.errors import RunError
from equipoise.runtime.files import write_bytes

METRICS = "metrics.jsonl"


@contextlib.contextmanager
def metrics_log(folder: Path, epoch: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Open the curves of a stage for appending, without the epochs that a resume will repeat.

    Args:
        folder: Folder of the stage.
        epoch: First epoch to train; entries of this epoch and later ones are dropped.

    Returns:
        A context manager that yields a function, which writes the entry of one epoch.

    Raises:
        RunError: If a file cannot be written.
    """
    path, entries = folder / METRICS, []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError, KeyError):  # a kill can cut the last line short
            entry = json.loads(line)
            if entry["epoch"] < epoch:
                entries.append(entry)
    write_bytes(path, "".join(json.dumps(entry) + "\n" for entry in entries).encode())

    def write(entry: dict[str, Any]) -> None:
        _append(path, (json.dumps(entry) + "\n").encode())

    yield write


def _append(path: Path, content: bytes) -> None:
    try:
        with path.open("ab") as file:
            file.write(content)
    except OSError as error:
        raise RunError(
            f"cannot write {path} ({error.strerror}); free some space and run again with --resume."
        ) from error
