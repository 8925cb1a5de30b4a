"""Atomic writes, JSON files, and the lock of a run folder.

Every write goes to a temporary file in the same folder first and then replaces the old file in one
step, so a reader sees the old file or the new one, never half of one.
"""

import contextlib
import errno
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from equipoise.runtime.errors import RunError

PART = ".part"
"""Suffix of temporary files."""
LOCK = ".lock"
"""Name of lock files."""
STALE_SECONDS = 86400.0
"""Age in seconds from which a temporary file counts as left behind by a killed process."""
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
"""Errors of a file system that has no locks."""


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file atomically; create its folder if it does not exist.

    Args:
        path: The file.
        content: Its new content.

    Raises:
        RunError: If the disk is full or the folder cannot be written; the old file is unchanged.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "new" / "note.txt"
        >>> write_bytes(path, b"text")
        >>> path.read_bytes()
        b'text'
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
            f"cannot write {path} ({error.strerror or error}); the old file is unchanged. Free "
            "some space or choose another folder with --out, then run again with --resume."
        ) from error


@contextlib.contextmanager
def locked(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Lock a folder for this process; create it if it does not exist.

    The operating system holds the lock and drops it however the process ends, so a killed process
    leaves no stale lock. A folder that is still empty at the end is removed again. On a file system
    without locks there is no protection.

    Args:
        folder: The folder; other processes that ask for the same lock are refused.
        patience: Seconds to wait for another process to release the lock.

    Returns:
        A context manager.

    Raises:
        RunError: If another process holds the lock, or no file can be written in the folder.

    Example:
        >>> import tempfile
        >>> run = Path(tempfile.mkdtemp()) / "run"
        >>> with locked(run):
        ...     run.is_dir()
        True
        >>> run.exists()
        False
    """
    created = [folder, *(parent for parent in folder.parents if not parent.exists())]
    path = folder / LOCK
    lock = _acquire(path, time.monotonic() + patience)
    try:
        with contextlib.suppress(OSError):
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # while the lock is held, so that no other process's file is deleted
        lock.release()
        with contextlib.suppress(OSError):
            for parent in created:
                parent.rmdir()  # fails unless it is empty


def _acquire(path: Path, deadline: float) -> BaseFileLock:
    """Lock a file; create its folder again whenever a process that ends removes it."""
    while True:
        lock = FileLock(path, fallback_to_soft=False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=max(0.0, deadline - time.monotonic()), poll_interval=0.05)
            return lock
        except Timeout:
            with contextlib.suppress(FileNotFoundError):
                raise RunError(
                    f"{path.parent} is in use by {_owner(path)}. Wait until it ends, stop it, or "
                    "choose another folder with --out."
                ) from None
        except (FileNotFoundError, FileExistsError):  # removed by its last owner, or a file
            if time.monotonic() > deadline:
                raise RunError(
                    f"cannot write {path} (its folder cannot be created); choose another folder "
                    "with --out."
                ) from None
            time.sleep(0.05)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return lock
            raise RunError(
                f"cannot write {path} ({error.strerror}); choose another folder with --out."
            ) from error


def _owner(path: Path) -> str:
    """Name the process that holds a lock file.

    Raises:
        FileNotFoundError: If the process just ended and removed the file.
    """
    try:
        return path.read_text() or "another process"
    except PermissionError:  # Windows lets no other process read a locked file
        return "another process"


def make_readable(temporary: str) -> None:
    """Give a file of ``mkstemp``, which is private, the permissions of the umask."""
    os.chmod(temporary, 0o666 & ~_umask())


def clear_temporaries(folder: Path, older: float = 0.0) -> None:
    """Delete temporary files that killed processes left in a folder.

    Args:
        folder: The folder.
        older: Delete only files older than this many seconds. Use ``STALE_SECONDS`` for a folder
            that other processes may be writing to.
    """
    for path in folder.glob(f".*{PART}"):
        with contextlib.suppress(OSError):
            if older == 0.0 or time.time() - path.stat().st_mtime > older:
                path.unlink()


def write_json(path: Path, content: Any) -> None:
    """Replace a file by indented JSON, atomically.

    Args:
        path: The file.
        content: JSON values.

    Raises:
        RunError: If the file cannot be written; see ``write_bytes``.
        ValueError: If a number is NaN or infinite, which JSON does not have.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "scores.json"
        >>> write_json(path, {"clean": 0.91})
        >>> read_json(path)
        {'clean': 0.91}
    """
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_bytes(path, text.encode())


def read_json(path: Path, limit: int | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        limit: Largest size in bytes that is accepted; ``None`` for any.

    Returns:
        JSON values.

    Raises:
        RunError: If the file is missing, damaged or larger than the limit.
    """
    try:
        if limit is not None and path.stat().st_size > limit:
            raise RunError(f"{path} must have at most {limit} bytes, got {path.stat().st_size}.")
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{path} does not exist.") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: it is not valid JSON ({error}).") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
