"""Check that a run folder belongs to one recipe, one data set and one process at a time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from equipoise.recipes import from_json, to_json
from equipoise.runtime.differences import differing_fields
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import LOCK, clear_temporaries, locked, read_json
from equipoise.runtime.run_folder import RunFolder
from equipoise.training import FAILED


@contextlib.contextmanager
def claimed(folder: Path, content: Any, resume: bool) -> Iterator[None]:
    """Lock a run folder for this process; reject a folder that holds another run.

    Args:
        folder: The run folder.
        content: The recipe, as JSON values.
        resume: Whether the folder may already hold a run of this recipe.

    Returns:
        A context manager that holds the lock.

    Raises:
        RunError: If the folder is a file, is in use, or holds anything else.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; choose another folder with --out.")
    with locked(folder):
        _check(folder, content, resume)
        yield


def _check(folder: Path, content: Any, resume: bool) -> None:
    clear_temporaries(folder)
    if not any(path.name != LOCK for path in folder.iterdir()):
        return
    stored = RunFolder(folder).recipe
    if not stored.exists():
        raise RunError(
            f"{folder} exists and is not a run folder; choose another folder with --out."
        )
    if not resume and set_failed_aside(folder):
        return
    if not resume:
        raise RunError(
            f"{folder} already holds a run. Continue it with --resume, or choose another folder "
            "with --out."
        )
    changed = ", ".join(differences(folder, content))
    if changed:
        raise RunError(
            f"{folder} holds a run of a different recipe (differs in {changed}). Choose another "
            f"folder with --out, or continue the stored run: equipoise train {stored} "
            f"--out {folder} --resume."
        )


def set_failed_aside(folder: Path) -> bool:
    """Move a run whose loss became NaN into ``failed/`` inside its folder.

    Args:
        folder: The run folder, locked by this process.

    Returns:
        Whether the run had failed.
    """
    if not any(RunFolder(folder).stages.glob(f"*/{FAILED}")):
        return False
    failed = folder / "failed"
    number = len(list(failed.glob("*"))) + 1
    content = [path for path in folder.iterdir() if path.name not in (LOCK, failed.name)]
    (failed / str(number)).mkdir(parents=True)
    for path in content:
        path.rename(failed / str(number) / path.name)
    return True


def check_same_data(folder: Path, digest: str) -> None:
    """Refuse to continue a run on different data: image order and validation images would change.

    Args:
        folder: The run folder.
        digest: Digest of the data set.

    Raises:
        RunError: If the run started on another data set.
    """
    path = RunFolder(folder).environment
    stored = read_json(path).get("data_digest", digest) if path.exists() else digest
    if stored != digest:
        raise RunError(
            f"the run in {folder} started on different data (images, labels or classes). Restore "
            "those data to continue, or choose another folder with --out."
        )


def differences(folder: Path, content: Any) -> list[str]:
    """Fields in which the recipe of a run folder differs from another one.

    Args:
        folder: The run folder.
        content: The other recipe, as JSON values.

    Returns:
        Paths such as ``method.alpha``. A field that the stored recipe lacks, because it was added
        in a later version, counts as set to its default.
    """
    return differing_fields(_of_this_version(read_json(RunFolder(folder).recipe)), content)


def _of_this_version(content: Any) -> Any:
    """A stored recipe with fields of later versions added at their defaults."""
    try:
        return to_json(from_json(content))
    except ValueError:
        return content
