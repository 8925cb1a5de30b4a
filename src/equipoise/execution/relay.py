"""A reporter for worker processes that passes its calls on to the parent process."""

import time
from collections.abc import Callable, Mapping
from typing import Any


class RelayReporter:
    """Sends each call of a reporter as a message; calls of ``step`` are limited in frequency.

    Args:
        send: Sends the name of a method and its arguments.
        seconds: Shortest time between two messages about steps.

    Example:
        >>> messages = []
        >>> reporter = RelayReporter(lambda *message: messages.append(message), seconds=60.0)
        >>> reporter.log("done")
        >>> messages
        [('log', ('done',))]
    """

    def __init__(self, send: Callable[[str, tuple[Any, ...]], Any], seconds: float) -> None:
        self.send, self.seconds = send, seconds
        self._last_step = 0.0

    def begin(self, stage: str, steps: int, done: int) -> None:
        """Report that a stage begins."""
        self.send("begin", (stage, steps, done))

    def step(self, done: int, text: str) -> None:
        """Report the number of steps done, unless a step was reported just before."""
        if time.monotonic() - self._last_step > self.seconds:
            self._last_step = time.monotonic()
            self.send("step", (done, text))

    def epoch(self, text: str, last: bool = False, entry: Mapping[str, Any] | None = None) -> None:
        """Report the end of an epoch or a stage."""
        self.send("epoch", (text, last, entry))

    def log(self, text: str) -> None:
        """Report a message."""
        self.send("log", (text,))
