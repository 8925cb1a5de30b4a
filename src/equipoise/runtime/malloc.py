"""What the process does with memory that tensors gave back."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for the next tensors rather than return it to the system.

    A step of training on a processor frees and takes again everything between input and loss. By
    default the system zeroes those pages every time, about a tenth of the step
    (docs/decisions/017-keep-freed-memory.md). Elsewhere than with glibc nothing happens.

    Returns:
        Whether the C library took the settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1)) and bool(mallopt(_MMAP_MAX, 0))
