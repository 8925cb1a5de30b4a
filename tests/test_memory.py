import ctypes
import resource
import sys

import pytest
import torch

from equipoise.memory import keep_freed_memory

glibc = pytest.mark.skipif(
    not (sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "mallopt")),
    reason="only glibc has these settings",
)


def pages_taken() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@glibc
def test_memory_that_was_freed_is_taken_again_without_asking_the_system():
    assert keep_freed_memory()
    for number in range(11):
        if number == 1:
            before = pages_taken()
        torch.ones(50_000_000)  # 200 MB are 50,000 pages
    assert pages_taken() - before < 50_000


def test_other_systems_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
