"""Keep freed CPU memory in glibc's heap."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Keep freed CPU memory in glibc's heap instead of returning it to the operating system.

    Each training step on CPU frees and allocates all activations again. By default the operating
    system hands out new zeroed pages each time, about a tenth of the step
    (docs/decisions/017-keep-freed-memory.md). With another C library than glibc, nothing changes.

    Returns:
        Whether the C library accepted the settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1)) and bool(mallopt(_MMAP_MAX, 0))
