"""Optional packages: a clear error when a figure or page needs one that is not installed."""

from collections.abc import Iterator
from contextlib import contextmanager

from equipoise.runtime.errors import RunError

PACKAGES = ("jinja2", "markupsafe", "matplotlib", "numpy")
"""What the extra ``equipoise[report]`` installs."""


@contextmanager
def report_extra(purpose: str) -> Iterator[None]:
    """Context manager that names the extra to install if an import inside it fails.

    Args:
        purpose: What the package is needed for; begins the message.

    Raises:
        RunError: If one of ``PACKAGES`` is missing.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package not in PACKAGES:
            raise
        raise RunError(
            f"{purpose} needs {package}, which is not installed: pip install 'equipoise[report]'."
        ) from error
