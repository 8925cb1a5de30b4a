"""A run folder belongs to one run: of one recipe, on one set of data, by one process at a time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from equipoise.recipes import from_json, to_json
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import LOCK, clear_temporaries, locked, read_json

RECIPE = "recipe.json"
ENVIRONMENT = "environment.json"


@contextlib.contextmanager
def claimed(folder: Path, content: Any, resume: bool) -> Iterator[None]:
    """Keep a run folder to this process; refuse one that another run lives in.

    Args:
        folder: The run folder.
        content: The recipe, as JSON values.
        resume: Whether the run of this recipe may be there already.

    Raises:
        RunError: If it is a file, or holds anything else.
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
    stored = folder / RECIPE
    if not stored.exists():
        raise RunError(f"{folder} exists and is no run folder; choose another one with --out.")
    if not resume:
        raise RunError(
            f"{folder} already holds a run. Go on with it by --resume, or choose another folder "
            "with --out."
        )
    changed = ", ".join(differences(folder, content))
    if changed:
        raise RunError(
            f"{folder} holds a run of another recipe (differs in {changed}). Choose another folder "
            f"with --out, or go on with the stored one: equipoise train {stored} --out {folder} "
            "--resume."
        )


def check_same_data(folder: Path, digest: str) -> None:
    """A run goes on with the data that it began with: order and validation images are of those."""
    path = folder / ENVIRONMENT
    before = read_json(path).get("data_digest", digest) if path.exists() else digest
    if before != digest:
        raise RunError(
            f"the data are not those that the run in {folder} began with (other images, labels or "
            "classes). Bring them back to go on, or choose another folder with --out."
        )


def differences(folder: Path, content: Any) -> list[str]:
    """Fields in which the recipe of a run folder differs from another one.

    Args:
        folder: The run folder.
        content: The other recipe, as JSON values.

    Returns:
        Their paths, such as ``method.alpha``; fields that came with a later version count as set
        to their defaults.
    """
    return _differences(_of_this_version(read_json(folder / RECIPE)), content)


def _of_this_version(content: Any) -> Any:
    """A stored recipe with the fields that came later, at their defaults."""
    try:
        return to_json(from_json(content))
    except ValueError:
        return content


def _differences(before: Any, after: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        names = sorted(before.keys() | after.keys())
        return [
            found
            for name in names
            for found in _differences(
                before.get(name), after.get(name), f"{path}.{name}".strip(".")
            )
        ]
    return [] if before == after else [path]
