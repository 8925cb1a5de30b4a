"""What a person sees while something runs: one progress bar a stage, with time left."""

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

SHARES = 1000
"""Steps of a bar whose work is not counted in steps but reported in thousandths."""


def quiet() -> None:
    """Leave out Fabric's notes about precision, which would tear the bars; call it when Fabric has
    been imported, as it sets its level then."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)


class Terminal:
    """A reporter that draws progress bars; on a pipe, it prints a line as each stage begins.

    Args:
        console: Where to draw.
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

    def of(self, name: str) -> "_Bar":
        """A reporter whose bars carry a name, for work that runs beside other work."""
        return _Bar(self, f"{name} ")

    def begin(self, stage: str, steps: int, done: int) -> None:
        """A new bar; on a pipe, a line."""
        self.bar.begin(stage, steps, done)

    def step(self, done: int, text: str) -> None:
        """Move the current bar."""
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
        steps = steps or SHARES
        if self.task is not None:  # a bar that is left has come to its end
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
