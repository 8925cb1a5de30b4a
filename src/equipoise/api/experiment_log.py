"""Send the metrics of each epoch to CSV files, TensorBoard, Weights & Biases or MLflow."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from equipoise.runtime.errors import RunError
from equipoise.runtime.reporter import Reporter

LogTo = Literal["csv", "tensorboard", "wandb", "mlflow"]
"""Where metrics go."""


@contextlib.contextmanager
def experiment_log(
    log_to: LogTo, folder: Path, name: str
) -> Iterator[Callable[[Reporter], Reporter]]:
    """Log what each epoch measured, through Lightning's loggers or the packages themselves.

    Losses, learning rate, and clean and attacked validation accuracy are logged under the name of
    their stage, such as ``gate/accuracy_0.0313725``, with the number of epochs done as step.
    Nothing is opened before the first epoch ends.

    Args:
        log_to: ``"csv"`` and ``"tensorboard"`` write below ``logs`` in the folder, a new version
            each time a run is resumed; ``"wandb"`` and ``"mlflow"`` use their own settings, such as
            ``WANDB_MODE`` and ``MLFLOW_TRACKING_URI``.
        folder: The run folder.
        name: Name of the run.

    Returns:
        A context manager that yields a function. It wraps a reporter so that its epochs are logged.

    Raises:
        RunError: If the package is not installed, or a file cannot be written.

    Example:
        >>> import tempfile
        >>> from equipoise.runtime.reporter import NullReporter
        >>> folder = Path(tempfile.mkdtemp())
        >>> with experiment_log("csv", folder, "mine") as logged:
        ...     reporter = logged(NullReporter())
        ...     reporter.begin("network", steps=10, done=0)
        ...     reporter.epoch("epoch 1 of 2", entry={"epoch": 0, "train": {"loss": 0.5}})
        >>> print((folder / "logs" / "csv" / "version_0" / "metrics.csv").read_text())
        network/loss,step
        0.5,1
        <BLANKLINE>
    """
    if log_to != "csv" and importlib.util.find_spec(log_to) is None:
        raise RunError(
            f"--log-to {log_to} needs the package {log_to}: run pip install 'equipoise[{log_to}]'."
        )
    logger = _Lazy(lambda: LOGGERS[log_to](folder, name))
    try:
        yield lambda reporter: LoggedReporter(reporter, logger)
    finally:
        logger.close()


@runtime_checkable
class Logger(Protocol):
    """What receives metrics."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Log the metrics of one epoch."""
        ...

    def close(self) -> None:
        """End the log."""
        ...


class LoggedReporter:
    """Passes everything on to a reporter, and the metrics of each epoch to a logger as well.

    Args:
        reporter: The reporter.
        logger: The logger.
    """

    def __init__(self, reporter: Reporter, logger: Logger) -> None:
        self.reporter, self.logger, self.stage = reporter, logger, ""

    def begin(self, stage: str, steps: int, done: int) -> None:
        """Start a stage."""
        self.stage = stage
        self.reporter.begin(stage, steps, done)

    def step(self, done: int, text: str) -> None:
        """Report progress."""
        self.reporter.step(done, text)

    def epoch(self, text: str, last: bool = False, entry: Mapping[str, Any] | None = None) -> None:
        """Report and log the end of an epoch."""
        self.reporter.epoch(text, last, entry)
        if entry is not None:
            metrics = {f"{self.stage}/{name}": value for name, value in _numbers(entry)}
            self.logger.log(metrics, entry["epoch"] + 1)

    def log(self, text: str) -> None:
        """Report a line of text."""
        self.reporter.log(text)


def _numbers(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of an epoch, without nesting."""
    yield from entry["train"].items()
    for strength, accuracy in entry.get("validation", {}).items():
        yield f"accuracy_{strength}", accuracy
    for name, key in (("accuracy_0", "clean"), ("learning_rate", "learning_rate")):
        if key in entry:
            yield name, entry[key]


class _Lazy:
    """Opens a logger when it is first used: the run folder must be empty when a run begins."""

    def __init__(self, make: Callable[[], Logger]) -> None:
        self.make = make
        self.logger: Logger | None = None

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.logger = self.logger or self.make()
        self.logger.log(metrics, step)

    def close(self) -> None:
        if self.logger is not None:
            self.logger.close()


class _Fabric:
    """A logger of Lightning Fabric, written to disk after each epoch."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def log(self, metrics: dict[str, float], step: int) -> None:
        try:
            self.logger.log_metrics(metrics, step)
            self.logger.save()
        except OSError as error:
            raise RunError(
                f"cannot write the log in {self.logger.root_dir} ({error.strerror or error}); make "
                "room there, or leave out --log-to, and run again with --resume."
            ) from error

    def close(self) -> None:
        self.logger.finalize("success")


def _csv(folder: Path, name: str) -> Logger:
    from lightning_fabric.loggers.csv_logs import CSVLogger

    return _Fabric(CSVLogger(folder / "logs", name="csv"))


def _tensorboard(folder: Path, name: str) -> Logger:
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    return _Fabric(TensorBoardLogger(folder / "logs", name="tensorboard"))


class _Wandb:
    def __init__(self, folder: Path, name: str) -> None:
        import wandb

        self.run = wandb.init(project="equipoise", name=name, dir=str(folder))

    def log(self, metrics: dict[str, float], step: int) -> None:
        # Not wandb's own step, which must not fall: epochs count from 1 in each stage.
        self.run.log({**metrics, "epoch": step})

    def close(self) -> None:
        self.run.finish()


class _Mlflow:
    def __init__(self, folder: Path, name: str) -> None:
        import mlflow

        self.mlflow = mlflow
        mlflow.start_run(run_name=name)

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.mlflow.log_metrics(metrics, step=step)

    def close(self) -> None:
        self.mlflow.end_run()


LOGGERS: dict[str, Callable[[Path, str], Logger]] = {
    "csv": _csv,
    "tensorboard": _tensorboard,
    "wandb": _Wandb,
    "mlflow": _Mlflow,
}
"""Opens each kind of log."""
