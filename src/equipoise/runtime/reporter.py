"""Protocol for progress and log messages, and a reporter that discards them."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Reporter(Protocol):
    """Who is told how training goes."""

    def begin(self, stage: str, steps: int, done: int) -> None:
        """A stage of so many steps begins, or goes on after ``done`` of them; with 0 steps, work
        that is reported in thousandths."""
        ...

    def step(self, done: int, text: str) -> None:
        """So many steps are done."""
        ...

    def log(self, text: str) -> None:
        """Something worth a line."""
        ...


class NullReporter:
    """A reporter that says nothing."""

    def begin(self, stage: str, steps: int, done: int) -> None:
        """Nothing."""

    def step(self, done: int, text: str) -> None:
        """Nothing."""

    def log(self, text: str) -> None:
        """Nothing."""
