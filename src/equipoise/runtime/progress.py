"""Progress bars in the terminal: one per stage, with the remaining time."""

import logging
from types import TracebackType

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


def quiet() -> None:
    """Silence Fabric's notes about precision, which would break the progress bars.

    Call it after Fabric has been imported, because the import sets the log level.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)


class Terminal:
    """Reporter that draws progress bars, or prints one line per stage if output is redirected.

    Args:
        console: Console to draw on.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
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
        self.bar = _Bar(self, "")

    def __enter__(self) -> "Terminal":
        quiet()
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def named(self, name: str) -> "_Bar":
        """A reporter whose bars start with a name, for work that runs in parallel."""
        return _Bar(self, f"{name} " if name else "")

    def begin(self, stage: str, steps: int, done: int) -> None:
        """Start a new bar, or print a line if output is redirected."""
        self.bar.begin(stage, steps, done)

    def step(self, done: int, text: str) -> None:
        """Advance the current bar."""
        self.bar.step(done, text)

    def log(self, text: str) -> None:
        """Print a line above the bars."""
        self.bar.log(text)


class _Bar:
    def __init__(self, terminal: Terminal, prefix: str) -> None:
        self.terminal, self.prefix = terminal, prefix
        self.task: TaskID | None = None
        self.steps = 0

    def begin(self, stage: str, steps: int, done: int) -> None:
        console, progress = self.terminal.console, self.terminal.progress
        if not console.is_terminal:
            note = f": {steps} steps" + (f", {done} done" if done else "") if steps else ""
            console.print(f"{self.prefix}{stage}{note}", highlight=False, soft_wrap=True)
        steps = steps or THOUSANDTHS
        if self.task is not None:  # the stage before has ended
            progress.update(self.task, completed=self.steps, text="")
        self.task = progress.add_task(self.prefix + stage, total=steps, completed=done, text="")
        self.steps = steps

    def step(self, done: int, text: str) -> None:
        if self.task is not None:
            self.terminal.progress.update(self.task, completed=done, text=text)

    def log(self, text: str) -> None:
        self.terminal.console.print(
            self.prefix + text, markup=False, highlight=False, soft_wrap=True
        )
