import ctypes
import sys

import pytest

from equipoise.runtime.malloc import keep_freed_memory

glibc = pytest.mark.skipif(
    not (sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "mallopt")),
    reason="only glibc has these settings",
)


@glibc
def test_glibc_accepts_the_settings():
    """What they are worth depends on the heap: benchmarks/pgd_step.py measures it."""
    assert keep_freed_memory()


def test_nothing_changes_on_other_systems(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
