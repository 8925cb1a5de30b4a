"""Files of a finished stage: weights of its best and last epoch, and a summary."""

from pathlib import Path
from typing import Any, Literal

from equipoise.runtime.files import write_bytes
from equipoise.training import checkpoint

BEST, LAST, DONE = "best.safetensors", "last.safetensors", "done.json"
FAILED = "failed.json"
"""Why a stage could not be trained further, such as a loss that became NaN."""


def is_done(folder: Path) -> bool:
    """Return whether the folder of a stage holds a finished stage.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     is_done(Path(folder))
        False
    """
    return (folder / DONE).exists()


def write_weights(task: Any, folder: Path, name: str, stage: str) -> None:
    """Write the current weights of a task.

    Args:
        task: Module whose state is written.
        folder: Folder of the stage.
        name: ``BEST`` or ``LAST``.
        stage: Name of the stage, which is stored in the file.

    Raises:
        RunError: If the file cannot be written.
    """
    write_bytes(folder / name, checkpoint.pack(task.state_dict(), {"stage": stage}))


def load_weights(task: Any, folder: Path, keep: Literal["best", "last"]) -> None:
    """Load the weights of a finished stage into its task.

    Args:
        task: Module that gets the weights.
        folder: Folder of the stage.
        keep: Which epoch's weights to load.

    Raises:
        CheckpointError: If the file is missing or damaged.

    Example:
        >>> import tempfile, torch
        >>> task = torch.nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_weights(task, Path(folder), LAST, "network")
        ...     before = task.weight.detach().clone()
        ...     _ = torch.nn.init.zeros_(task.weight)
        ...     load_weights(task, Path(folder), "last")
        >>> torch.equal(task.weight, before)
        True
    """
    try:
        tensors, _ = checkpoint.unpack(folder / (BEST if keep == "best" else LAST))
    except checkpoint.CheckpointError as error:
        raise checkpoint.CheckpointError(
            f"{error} To train this stage again, delete {folder}."
        ) from error
    task.load_state_dict(tensors)
