"""Training curves: one line per epoch in metrics.jsonl, and TensorBoard events if installed."""

import contextlib
import importlib.util
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
    """Open the curves of a stage for appending, without the epochs that a resume will repeat.

    ``torch.utils.tensorboard.SummaryWriter`` is not used: its thread prints a traceback when the
    disk is full, where a user needs one clear error.

    Args:
        folder: Folder of the stage.
        epoch: First epoch to train; entries of this epoch and later ones are dropped.

    Returns:
        A context manager that yields a function, which writes the entry of one epoch.

    Raises:
        RunError: If a file cannot be written.
    """
    path, events = folder / METRICS, folder / _EVENTS
    has_tensorboard = importlib.util.find_spec("tensorboard") is not None
    entries = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError, KeyError):  # a kill can cut the last line short
            entry = json.loads(line)
            if entry["epoch"] < epoch:
                entries.append(entry)
    write_bytes(path, "".join(json.dumps(entry) + "\n" for entry in entries).encode())
    shutil.rmtree(events.parent, ignore_errors=True)
    if has_tensorboard:
        write_bytes(events, _events(entries, with_header=True))

    def write(entry: dict[str, Any]) -> None:
        _append(path, (json.dumps(entry) + "\n").encode())
        if has_tensorboard:
            _append(events, _events([entry]))

    yield write


def _append(path: Path, content: bytes) -> None:
    try:
        with path.open("ab") as file:
            file.write(content)
    except OSError as error:
        raise RunError(
            f"cannot write {path} ({error.strerror}); free some space and run again with --resume."
        ) from error


def _events(entries: Sequence[dict[str, Any]], *, with_header: bool = False) -> bytes:
    """Encode entries as TensorBoard events.

    The last entry is dated now; earlier ones lie as many seconds before it as training took.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    content, now = io.BytesIO(), time.time()
    writer = RecordWriter(content)
    if with_header:
        writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    last = entries[-1].get("seconds", 0.0) if entries else 0.0
    for entry in entries:
        values = [
            Summary.Value(tag=f"{part}/{name}", simple_value=value)
            for part in ("train", "validation")
            for name, value in entry.get(part, {}).items()
        ]
        event = Event(
            wall_time=now - (last - entry.get("seconds", 0.0)),
            step=entry["epoch"],
            summary=Summary(value=values),
        )
        writer.write(event.SerializeToString())
    return content.getvalue()
