"""Protocol for progress and log messages, and a reporter that discards them."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Reporter(Protocol):
    """Receives progress and log messages."""

    def begin(self, stage: str, steps: int, done: int) -> None:
        """Start a stage.

        Args:
            stage: Name of the stage.
            steps: Number of steps; 0 if progress is reported in thousandths.
            done: Steps that were finished before, in a resumed run.
        """
        ...

    def step(self, done: int, text: str) -> None:
        """Report that ``done`` steps of the stage are finished, with a short status text."""
        ...

    def epoch(self, text: str, last: bool = False, entry: Mapping[str, Any] | None = None) -> None:
        """Report the end of an epoch, for logs without a progress bar.

        Args:
            text: What to say.
            last: Whether it is the end of the stage.
            entry: What was measured in the epoch, as in ``metrics.jsonl``.
        """
        ...

    def log(self, text: str) -> None:
        """Print a line of text."""
        ...


class NullReporter:
    """Reporter that discards everything."""

    def begin(self, stage: str, steps: int, done: int) -> None:
        """Do nothing."""

    def step(self, done: int, text: str) -> None:
        """Do nothing."""

    def epoch(self, text: str, last: bool = False, entry: Mapping[str, Any] | None = None) -> None:
        """Do nothing."""

    def log(self, text: str) -> None:
        """Do nothing."""
