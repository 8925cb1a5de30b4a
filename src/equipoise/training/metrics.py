"""Training curves: one line an epoch in metrics.jsonl, and the same for TensorBoard."""

import contextlib
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from equipoise.runtime.errors import RunError
from equipoise.runtime.files import write_bytes

METRICS = "metrics.jsonl"
_EVENTS = Path("tensorboard") / "events.out.tfevents.equipoise"


@contextlib.contextmanager
def metrics_log(folder: Path, epoch: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Open a stage's curves for appending; what a resume will repeat is dropped first.

    TensorBoard's own writer is left alone: it holds its file open and writes from a thread, where
    nobody can catch that the disk is full.

    Args:
        folder: Of the stage.
        epoch: Where training goes on; lines of this epoch and later ones are dropped.

    Returns:
        A context manager that gives a function, which writes one epoch's entry.

    Raises:
        RunError: If a line cannot be written.
    """
    path, events = folder / METRICS, folder / _EVENTS
    lines = path.read_text().splitlines() if path.exists() else []
    kept = []
    for line in lines:
        with contextlib.suppress(ValueError, KeyError):  # a line cut short by a kill
            entry = json.loads(line)
            if entry["epoch"] < epoch:
                kept.append(entry)
    write_bytes(path, "".join(json.dumps(entry) + "\n" for entry in kept).encode())
    shutil.rmtree(events.parent, ignore_errors=True)
    write_bytes(events, _encoded(kept, begins=True))

    def write(entry: dict[str, Any]) -> None:
        _append(path, (json.dumps(entry) + "\n").encode())
        _append(events, _encoded([entry]))

    yield write


def _append(path: Path, content: bytes) -> None:
    try:
        with path.open("ab") as file:
            file.write(content)
    except OSError as error:
        raise RunError(
            f"cannot write {path} ({error.strerror}); free some space and run again with --resume."
        ) from error


def _encoded(entries: Sequence[dict[str, Any]], *, begins: bool = False) -> bytes:
    """Entries as records of TensorBoard's; earlier ones as long ago as their seconds say."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    content, now = io.BytesIO(), time.time()
    writer = RecordWriter(content)
    if begins:
        writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    last = entries[-1].get("seconds", 0.0) if entries else 0.0
    for entry in entries:
        values = [
            Summary.Value(tag=f"{part}/{name}", simple_value=value)
            for part in ("train", "validation")
            for name, value in entry.get(part, {}).items()
        ]
        writer.write(
            Event(
                wall_time=now - (last - entry.get("seconds", 0.0)),
                step=entry["epoch"],
                summary=Summary(value=values),
            ).SerializeToString()
        )
    return content.getvalue()
