"""Atomic writes, JSON files, and the lock of a run folder.

Every write goes to a temporary file in the same folder first and then replaces the old file in one
step, so a reader sees the old file or the new one, never half of one.
"""

import contextlib
import fcntl
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from equipoise.runtime.errors import RunError

PART = ".part"
LOCK = ".lock"
STALE_SECONDS = 86400.0
"""Seconds without a write after which a half-written file is taken for one of a killed process."""


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` in one step.

    Raises:
        RunError: If the disk is full or the folder cannot be written; the old file is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            make_readable(temporary)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise RunError(
            f"cannot write {path} ({error.strerror or error}); what was there is unchanged. "
            "Free some space or choose another folder with --out, then run again with --resume."
        ) from error


@contextlib.contextmanager
def locked(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Keep a folder, which is made if need be, to this process.

    The kernel holds the lock and drops it however the process ends, so a kill leaves none behind.
    On a file system without locks there is no protection.

    Args:
        folder: What is locked; other processes that ask for the same lock are refused.
        patience: Seconds to wait for another process to end.

    Returns:
        A context manager.

    Raises:
        RunError: If another process holds the folder, or no file can be written there.
    """
    path, until = folder / LOCK, time.monotonic() + patience
    made = [folder, *(parent for parent in folder.parents if not parent.exists())]
    while (handle := _try_lock(path)) is None:
        if time.monotonic() > until:
            with contextlib.suppress(FileNotFoundError):
                holder = path.read_text() if folder.exists() else None
                if holder is None:
                    raise RunError(
                        f"cannot write {path} (its folder cannot be made); choose another folder "
                        "with --out."
                    )
                raise RunError(
                    f"{folder} is in use by {holder or 'another process'}. Wait until it ends, "
                    "stop it, or choose another folder with --out."
                )
        time.sleep(0.05)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
            for place in made:
                place.rmdir()  # where nothing was written
        os.close(handle)


def _try_lock(path: Path) -> int | None:
    """An open, locked file, or ``None`` if another process has the lock or just gave it up."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(
            f"cannot write {path} ({error.strerror}); choose another folder with --out."
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:  # a file system without locks
        return handle
    with contextlib.suppress(FileNotFoundError):
        if os.fstat(handle).st_ino == os.stat(path).st_ino:
            return handle
    os.close(handle)  # its owner deleted it before we had it
    return None


def make_readable(temporary: str) -> None:
    """Make a file of ``mkstemp``, which is private, as readable as its owner's umask says."""
    os.chmod(temporary, 0o666 & ~_umask())


def clear_temporaries(folder: Path, older: float = 0.0) -> None:
    """Delete what writes that were cut short by a kill left in a folder.

    Args:
        folder: The folder.
        older: Seconds since the write began; a younger file is left alone. For a folder that other
            processes may be writing to, as ``STALE_SECONDS`` says.
    """
    for path in folder.glob(f".*{PART}"):
        with contextlib.suppress(OSError):
            if older == 0.0 or time.time() - path.stat().st_mtime > older:
                path.unlink()


def write_json(path: Path, content: Any) -> None:
    """Replace ``path`` by ``content`` as indented JSON, in one step.

    Raises:
        RunError: As ``write_bytes``.
        ValueError: If a number is NaN or infinite, which JSON does not have.
    """
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_bytes(path, text.encode())


def read_json(path: Path, limit: int | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        limit: Most bytes that are read, for a file that others wrote.

    Raises:
        RunError: If it is missing, damaged or larger than the limit.
    """
    try:
        if limit is not None and path.stat().st_size > limit:
            raise RunError(f"{path} has {path.stat().st_size} bytes; at most {limit} are read.")
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{path} does not exist.") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: it is not JSON ({error}).") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
