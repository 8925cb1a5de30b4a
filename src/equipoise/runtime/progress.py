"""Progress bars in the terminal: one per stage, with the remaining time."""

import logging

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


class Bar:
    """Reporter that draws progress bars, or prints one line per stage if output is redirected.

    Args:
        console: Console to draw on.
        progress: The bars of the console.
        prefix: What the description of every bar starts with.
    """

    def __init__(self, console: Console, progress: Progress, prefix: str = "") -> None:
        self.console, self.progress, self.prefix = console, progress, prefix
        self.task: TaskID | None = None
        self.steps = 0

    def begin(self, stage: str, steps: int, done: int) -> None:
        """Start a new bar, or print a line if output is redirected."""
        if not self.console.is_terminal:
            note = f": {steps} steps" + (f", {done} done" if done else "") if steps else ""
            self.console.print(f"{self.prefix}{stage}{note}", highlight=False, soft_wrap=True)
        steps = steps or THOUSANDTHS
        if self.task is not None:  # the stage before has ended
            self.progress.update(self.task, completed=self.steps, text="")
        description = self.prefix + stage
        self.task = self.progress.add_task(description, total=steps, completed=done, text="")
        self.steps = steps

    def step(self, done: int, text: str) -> None:
        """Advance the current bar."""
        if self.task is not None:
            self.progress.update(self.task, completed=done, text=text)

    def log(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(self.prefix + text, markup=False, highlight=False, soft_wrap=True)


class Terminal(Bar):
    """The bars of a console, which are drawn inside its ``with`` block, and the first of them.

    Args:
        console: Console to draw on.
    """

    def __init__(self, console: Console) -> None:
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
        super().__init__(console, progress)

    def __enter__(self) -> "Terminal":
        quiet()
        self.progress.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.progress.stop()

    def named(self, name: str) -> Bar:
        """A reporter whose bars start with a name, for work that runs in parallel."""
        return Bar(self.console, self.progress, f"{name} " if name else "")
