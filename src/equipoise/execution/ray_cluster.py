"""Stages of a plan, or any other pieces of work, on a Ray cluster: independent ones at once.

Nothing is kept in Ray: a stage is done when its folder on the shared file system says so. A worker
that dies is replaced by one that goes on at the last checkpoint; a driver that dies is started
again with ``--resume``.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equipoise.distributed.ranks import launched
from equipoise.execution.local import execute
from equipoise.methods import Stage
from equipoise.models.io.trust import trusted_names, trusting
from equipoise.recipes import Recipe
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import locked
from equipoise.runtime.reporter import Reporter
from equipoise.runtime.signals import Interrupted, stop_on_signals
from equipoise.training import is_done

LOCK_WAIT_SECONDS = 60.0
"""Seconds that a stage waits for a worker of a driver that was killed to be gone."""


@dataclass(frozen=True, kw_only=True)
class RayExecutor:
    """Runs pieces of work as Ray tasks.

    Args:
        address: Of a running cluster, such as ``auto`` on its head node; by default that in
            ``RAY_ADDRESS``, or a cluster on this machine, which is started and ended here.
        cpus: Cores of each piece of work, and torch threads.
        gpus: GPUs of each piece of work.
        retries: How often a piece is begun again whose worker or machine was lost.
        reporter: Gives the reporter of a piece of work.
    """

    address: str | None = None
    cpus: int = 1
    gpus: float = 0
    retries: int = 3
    reporter: Callable[[str], Reporter]

    def __call__(self, recipe: Recipe, folder: Path) -> None:
        """Train every stage of a recipe that is not done yet.

        Args:
            recipe: What to train.
            folder: The run folder, which all machines see under the same path.

        Raises:
            TrainingError: If a stage cannot be trained.
            Interrupted: If this process was asked to stop; every stage has saved a checkpoint.
            RunError: If ray is missing, or workers were lost more often than ``retries``.
        """
        stages = recipe.method.stages(recipe.network.maker(recipe.dataset.load()))
        left = [stage for stage in stages if not is_done(folder / "stages" / stage.name)]
        names = {stage.name for stage in left}
        self.run(
            {stage.name: (train_stage, (recipe, folder, stage.name)) for stage in left},
            needs={stage.name: tuple(names.intersection(stage.needs)) for stage in left},
        )

    def run(
        self,
        work: Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]],
        *,
        needs: Mapping[str, tuple[str, ...]] | None = None,
    ) -> dict[str, Any]:
        """Run functions, each as soon as those that it needs are done.

        Args:
            work: By name, a module-level function and its arguments; it is called with
                ``reporter=`` besides, in this process's working directory and trusting what is
                trusted here. What is needed comes before what needs it.
            needs: Names of what each piece waits for.

        Returns:
            Each function's answer, by name.

        Raises:
            Interrupted: If this process was asked to stop.
            RunError: If ray is missing, or a worker was lost too often.
            Exception: The first one that a function raised, after the others have stopped.
        """
        ray = _ray()
        with self._cluster(ray):
            board = ray.remote(num_cpus=0, max_restarts=-1)(_Board).remote()
            task = ray.remote(
                num_cpus=self.cpus,
                num_gpus=self.gpus,
                max_retries=self.retries,
                retry_exceptions=[Interrupted],  # a worker that was asked to stop, not by us
            )(_piece)
            tasks: dict[str, Any] = {}
            for name, (function, arguments) in work.items():
                waits = [tasks[other] for other in (needs or {}).get(name, ())]
                tasks[name] = task.options(name=name).remote(
                    board, name, Path.cwd(), trusted_names(), self.cpus, function, arguments, *waits
                )
            return self._follow(ray, board, tasks)

    def _follow(self, ray: Any, board: Any, tasks: Mapping[str, Any]) -> dict[str, Any]:
        reporters = {name: self.reporter(name) for name in tasks}
        names = {task: name for name, task in tasks.items()}
        answers: dict[str, Any] = {}
        failed: Exception | None = None
        asked, stop = False, threading.Event()
        with stop_on_signals(stop):
            while names:
                ended, _ = ray.wait(list(names), timeout=0.2)
                with contextlib.suppress(ray.exceptions.RayActorError):  # it is begun again
                    for name, kind, content in ray.get(board.take.remote()):
                        getattr(reporters[name], kind)(*content)
                for task in ended:
                    name = names.pop(task)
                    try:
                        answers[name] = ray.get(task)
                    except ray.exceptions.RayError as error:
                        failed = failed or _cause(ray, name, error)
                if (stop.is_set() or failed is not None) and not asked:
                    asked = True
                    for task in names:
                        ray.cancel(task)
        if stop.is_set():
            raise Interrupted
        if failed is not None:
            raise failed
        return {name: answers[name] for name in tasks}

    @contextlib.contextmanager
    def _cluster(self, ray: Any) -> Iterator[None]:
        if ray.is_initialized():
            yield
            return
        address = self.address or os.environ.get("RAY_ADDRESS")
        settings: dict[str, Any] = {} if address else {"include_dashboard": False}
        try:
            ray.init(address, log_to_driver=False, logging_level="error", **settings)
        except (ConnectionError, ValueError) as error:
            raise RunError(
                f"no Ray cluster answers at {address} ({error}); see that it runs, or leave "
                "--ray-address out to start one on this machine."
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


def train_stage(recipe: Recipe, folder: Path, name: str, *, reporter: Reporter) -> None:
    """Train one stage of a recipe, whose needed stages are done.

    Args:
        recipe: The recipe.
        folder: The run folder.
        name: Of the stage.
        reporter: Who is told.

    Raises:
        RunError: If another process trains this stage.
        TrainingError: If the stage cannot be trained.
        Interrupted: If this process was asked to stop.
    """
    dataset = recipe.dataset.load()
    stages = {stage.name: stage for stage in recipe.method.stages(recipe.network.maker(dataset))}
    with locked(folder / "stages" / name, LOCK_WAIT_SECONDS):
        execute(
            [*_needed(stages, name), stages[name]],
            train=dataset.train,
            loop=recipe.loop,
            folder=folder,
            seed=recipe.seed,
            fabric=launched(recipe.loop.precision, recipe.loop.batch_size),
            reporter=reporter,
        )


def _needed(stages: Mapping[str, Stage], name: str) -> list[Stage]:
    """What a stage needs, and what that needs, in the plan's order."""
    names, more = set[str](), set(stages[name].needs)
    while more:
        names |= more
        more = {need for each in more for need in stages[each].needs} - names
    return [stage for stage in stages.values() if stage.name in names]


class _Board:
    """Where workers leave what the driver's reporters are to be told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, tuple[Any, ...]]] = []

    def put(self, name: str, kind: str, content: tuple[Any, ...]) -> None:
        self.said.append((name, kind, content))

    def take(self) -> list[tuple[str, str, tuple[Any, ...]]]:
        said, self.said = self.said, []
        return said


class _Relay:
    """A reporter that speaks to the board; steps at most five times a second."""

    def __init__(self, board: Any, name: str) -> None:
        self.board, self.name = board, name
        self.spoke = 0.0

    def begin(self, stage: str, steps: int, done: int) -> None:
        self.board.put.remote(self.name, "begin", (stage, steps, done))

    def step(self, done: int, text: str) -> None:
        if time.monotonic() - self.spoke > 0.2:
            self.spoke = time.monotonic()
            self.board.put.remote(self.name, "step", (done, text))

    def log(self, text: str) -> None:
        self.board.put.remote(self.name, "log", (text,))


def _piece(
    board: Any,
    name: str,
    place: Path,
    trusted: tuple[str, ...],
    threads: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    *waited_for: Any,
) -> Any:
    import torch

    torch.set_num_threads(threads)
    if not place.is_dir():
        raise RunError(
            f"{place} does not exist on {socket.gethostname()}; run from a folder on a file system "
            "that all machines of the cluster share."
        )
    with contextlib.chdir(place), trusting(*trusted):
        return function(*arguments, reporter=_Relay(board, name))


def _cause(ray: Any, name: str, error: Exception) -> Exception:
    """What a function raised, or that its worker was lost."""
    cause = getattr(error, "cause", None)
    if isinstance(error, ray.exceptions.RayTaskError) and isinstance(cause, Exception):
        return cause
    return RunError(
        f"{name} was lost on the cluster more often than it is begun again "
        f"({str(error).splitlines()[0]}). What it had finished is kept: run the same command again "
        "with --resume."
    )


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise RunError(
            "--executor ray needs the package ray; install it with pip install 'equipoise[ray]'."
        ) from error
    return ray
