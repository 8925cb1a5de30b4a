"""Progress bars in the terminal, or lines in a log: one per stage, with the remaining time."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

THOUSANDTHS = 1000
"""Length of a bar whose work is reported in thousandths, not in steps."""
LINE_SECONDS = 60
"""Seconds without a line after which progress is printed where no bar can be drawn."""


def quiet() -> None:
    """Silence Fabric's notes about precision, which would break the progress bars.

    Call it after Fabric has been imported, because the import sets the log level.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)


class Bar:
    """Reporter that draws progress bars or, if output is redirected, prints lines.

    The lines are one for each stage, one for each epoch, and one a minute in between.

    Args:
        console: Console to draw on.
        progress: The bars of the console.
        prefix: What the description of every bar starts with.
        clock: Gives seconds.

    Example:
        >>> import io
        >>> file = io.StringIO()
        >>> bar = Terminal(Console(file=file), clock=iter(range(0, 500, 50)).__next__)
        >>> bar.begin("network", 100, 0)
        >>> bar.step(20, "loss 1.3")  # after 50 seconds: no line yet
        >>> bar.step(40, "loss 1.2")
        >>> print(file.getvalue().strip())
        network: 100 steps
        network: 40 %, loss 1.2, 2:30 left
    """

    def __init__(
        self,
        console: Console,
        progress: Progress,
        prefix: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console, self.progress, self.prefix, self.clock = console, progress, prefix, clock
        self.task: TaskID | None = None
        self.stage = ""
        self.steps = self.done = self.first = 0
        self.began = self.printed = 0.0

    def begin(self, stage: str, steps: int, done: int) -> None:
        """Start a new bar, or print a line if output is redirected."""
        if not self.console.is_terminal:
            note = f": {steps} steps" + (f", {done} done" if done else "") if steps else ""
            self.log(f"{stage}{note}")
            self.began = self.printed = self.clock()
        steps = steps or THOUSANDTHS
        if self.task is not None:  # the stage before has ended
            self.progress.update(self.task, completed=self.steps, text="")
        description = self.prefix + stage
        self.task = self.progress.add_task(description, total=steps, completed=done, text="")
        self.stage, self.steps, self.first, self.done = stage, steps, done, done

    def step(self, done: int, text: str) -> None:
        """Advance the current bar, or print a line if none was printed for a minute."""
        if self.task is None:
            return
        self.progress.update(self.task, completed=done, text=text)
        self.done = done
        if not self.console.is_terminal and (now := self.clock()) - self.printed >= LINE_SECONDS:
            self._line(f"{done / self.steps:.0%}".replace("%", " %") + f", {text}", now)

    def epoch(self, text: str, last: bool = False, entry: Mapping[str, Any] | None = None) -> None:
        """Print a line if output is redirected, or at the end of a stage."""
        if last:
            self.log(f"{self.stage}: {text}")
        elif not self.console.is_terminal:
            self._line(text, self.clock())

    def log(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(self.prefix + text, markup=False, highlight=False, soft_wrap=True)

    def _line(self, text: str, now: float) -> None:
        left = ""
        if self.first < self.done < self.steps:
            share = (self.steps - self.done) / (self.done - self.first)
            minutes, seconds = divmod(round((now - self.began) * share), 60)
            left = f", {minutes}:{seconds:02d} left"
        self.log(f"{self.stage}: {text}{left}")
        self.printed = now


class Terminal(Bar):
    """The bars of a console, which are drawn inside its ``with`` block, and the first of them.

    Args:
        console: Console to draw on.
        clock: Gives seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[text]}"),
            console=console,
            disable=not console.is_terminal,
        )
        super().__init__(console, progress, clock=clock)

    def __enter__(self) -> "Terminal":
        quiet()
        self.progress.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.progress.stop()

    def named(self, name: str) -> Bar:
        """A reporter whose bars start with a name, for work that runs in parallel."""
        return Bar(self.console, self.progress, f"{name} " if name else "", self.clock)
