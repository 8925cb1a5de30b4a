"""What a person sees while something runs: one progress bar a stage, with time left."""

import logging
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


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
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[text]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task: TaskID | None = None

    def __enter__(self) -> "Terminal":
        # Fabric's notes about precision would tear the bars. It sets its level when it is imported.
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def begin(self, stage: str, steps: int, done: int) -> None:
        """A new bar; on a pipe, a line."""
        if not self.console.is_terminal:
            self.console.print(f"{stage}: {steps} steps" + (f", {done} done" if done else ""))
        self.task = self.progress.add_task(stage, total=steps, completed=done, text="")

    def step(self, done: int, text: str) -> None:
        """Move the current bar."""
        if self.task is not None:
            self.progress.update(self.task, completed=done, text=text)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text)
