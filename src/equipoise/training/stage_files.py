"""What a finished stage leaves: the weights of its best and of its last epoch, and a summary."""

from pathlib import Path
from typing import Any, Literal

from equipoise.runtime.files import write_bytes
from equipoise.training import checkpoint

BEST, LAST, DONE = "best.safetensors", "last.safetensors", "done.json"


def is_done(folder: Path) -> bool:
    """Whether a stage's folder holds a finished stage."""
    return (folder / DONE).exists()


def write_weights(task: Any, folder: Path, name: str, stage: str) -> None:
    """Write a task's weights as they are now.

    Args:
        task: Whose state is written.
        folder: Of the stage.
        name: ``BEST`` or ``LAST``.
        stage: The stage's name, which goes into the file.

    Raises:
        RunError: If the file cannot be written.
    """
    write_bytes(folder / name, checkpoint.pack(task.state_dict(), {"stage": stage}))


def load_weights(task: Any, folder: Path, keep: Literal["best", "last"]) -> None:
    """Load a finished stage's weights into its task.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    try:
        tensors, _ = checkpoint.unpack(folder / (BEST if keep == "best" else LAST))
    except checkpoint.CheckpointError as error:
        raise checkpoint.CheckpointError(
            f"{error} To train this stage again, delete {folder}."
        ) from error
    task.load_state_dict(tensors)
