"""Commit, package versions and hardware that a result was computed with."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any


def environment() -> dict[str, Any]:
    """Describe the software and hardware of this process, for records and run folders.

    Returns:
        Commit, Python and package versions, processor, cores and, if torch is loaded, its threads
        and the names of GPUs.

    Example:
        >>> sorted(environment())
        ['commit', 'cores', 'devices', 'platform', 'processor', 'python', 'threads', 'versions']
    """
    versions = {package: version(package) for package in PACKAGES}
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: number for name, number in versions.items() if number is not None},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": _threads(),
        "devices": _devices(),
    }


def version(package: str) -> str | None:
    """Installed version of a package, or ``None`` if it is not installed.

    Example:
        >>> version("no-such-package") is None
        True
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Git commit of the source tree that this package is imported from.

    Returns:
        The hash, followed by ``-dirty`` if tracked files differ from it; ``None`` if the package
        is not in a git repository.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("-dirty" if _git(root, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    completed = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return completed.stdout.strip()


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _threads() -> int | None:
    import sys

    torch = sys.modules.get("torch")
    return None if torch is None else torch.get_num_threads()


def _devices() -> list[str]:
    import sys

    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


PACKAGES = ("equipoise", "torch", "numpy", "lightning-fabric", "safetensors")
"""Packages whose versions are recorded."""
