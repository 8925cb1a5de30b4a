"""Stopping a run politely: the first signal asks, the second one ends the process."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

REQUEUE = 75
"""Exit status of a process that was asked by SIGTERM to make room: EX_TEMPFAIL of sysexits.h, "try
again later". Batch systems can be told to put such a job back into the queue."""

INTERRUPTED = 130
"""Exit status of a process that a person stopped with Ctrl-C, as shells have it."""

_by_hand = threading.Event()


class Interrupted(Exception):
    """The run was asked to stop and has saved a checkpoint."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came where nothing has to be saved."""


def exit_status() -> int:
    """Of a process that was asked to stop: ``INTERRUPTED`` after Ctrl-C, else ``REQUEUE``, also
    where another process of the run was the one that was asked."""
    return INTERRUPTED if _by_hand.is_set() else REQUEUE


@contextlib.contextmanager
def end_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind this process as Ctrl-C does, wherever it is not caught otherwise."""

    def end(number: int, frame: Any) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into a flag; the second one acts as if this were not here.

    Args:
        stop: Set by the first signal.

    Returns:
        A context manager; outside the main thread, where signals cannot be caught, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _by_hand.clear()

    def request(number: int, frame: Any) -> None:
        stop.set()
        if number == signal.SIGINT:
            _by_hand.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, request)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
