"""Stop a run on a signal: the first one requests a checkpoint, the second ends the process."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

REQUEUE = 75
"""Exit status after SIGTERM: EX_TEMPFAIL of sysexits.h, "try again later". Batch systems can be
configured to requeue a job with this status."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells."""

_by_hand = threading.Event()


class Interrupted(Exception):
    """The run was interrupted and has saved a checkpoint."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived while there was nothing to save."""


def exit_status() -> int:
    """Exit status of an interrupted process.

    Returns:
        ``INTERRUPTED`` after Ctrl-C in this process, otherwise ``REQUEUE``, also if the signal went
        to another process of the run.
    """
    return INTERRUPTED if _by_hand.is_set() else REQUEUE


@contextlib.contextmanager
def end_on_sigterm() -> Iterator[None]:
    """Context manager in which SIGTERM raises ``Terminated``, as Ctrl-C raises KeyboardInterrupt.

    Outside the main thread, where signals cannot be caught, it does nothing.
    """

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
    """Context manager in which the first SIGINT or SIGTERM sets a flag.

    The second signal has its usual effect. Outside the main thread, where signals cannot be caught,
    the context manager does nothing.

    Args:
        stop: The flag.

    Example:
        >>> stop = threading.Event()
        >>> with stop_on_signals(stop):
        ...     signal.raise_signal(signal.SIGTERM)
        >>> stop.is_set()
        True
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
