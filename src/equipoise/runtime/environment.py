"""Where a number was computed: commit, package versions, hardware."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any


def environment() -> dict[str, Any]:
    """Where a number was made.

    Returns:
        Commit, Python and package versions, processor, cores and, if torch is loaded, devices.
    """
    versions = {package: version(package) for package in PACKAGES}
    found: dict[str, Any] = {
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {package: found for package, found in versions.items() if found is not None},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "devices": _devices(),
    }
    return found


def version(package: str) -> str | None:
    """The installed version of a package; ``None`` where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The git commit of the package's source tree.

    Returns:
        The hash, with ``-dirty`` where tracked files differ from it; ``None`` if installed apart
        from its repository.
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
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _devices() -> list[str]:
    import sys

    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


PACKAGES = ("equipoise", "torch", "numpy", "lightning-fabric", "safetensors")
