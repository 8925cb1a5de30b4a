"""Run the stages of a plan, or other functions, as tasks on a Ray cluster.

Ray stores no results: a stage is done when its folder on the shared file system is complete. A
worker that dies is replaced by one that resumes at the last checkpoint. After the driver has died,
run the same command again with ``--resume``.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equipoise.distributed.ranks import launched
from equipoise.execution.local import execute
from equipoise.execution.relay import RelayReporter
from equipoise.recipes import Recipe
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import locked
from equipoise.runtime.reporter import Reporter
from equipoise.runtime.signals import Interrupted, stop_on_signals
from equipoise.runtime.trust import trusted_names, trusting
from equipoise.training import is_done
from equipoise.training.stage import Stage

LOCK_WAIT_SECONDS = 60.0
"""Longest time that a stage waits for the worker of a killed driver to end."""


@dataclass(frozen=True, kw_only=True)
class RayExecutor:
    """Runs functions as Ray tasks.

    Args:
        address: Address of a running cluster, such as ``auto`` on its head node. The default is
            ``RAY_ADDRESS``, or else a cluster on this machine, which is started and ended here.
        cpus: Cores, and torch threads, per task.
        gpus: GPUs per task.
        retries: How often a task is restarted after its worker or machine was lost.
        reporter: Returns the reporter for the name of a task.
    """

    address: str | None = None
    cpus: int = 1
    gpus: float = 0
    retries: int = 3
    reporter: Callable[[str], Reporter]

    def __call__(self, recipe: Recipe, folder: Path) -> None:
        """Train all stages of a recipe that are not done yet.

        Args:
            recipe: The recipe.
            folder: The run folder, under the same path on all machines.

        Raises:
            TrainingError: If a stage cannot be trained.
            Interrupted: If this process was asked to stop; every stage has saved a checkpoint.
            RunError: If Ray is not installed, or a worker was lost more often than ``retries``.
        """
        plan = recipe.method.stages(recipe.network.maker(recipe.dataset.load()))
        stages = [stage for stage in plan if not is_done(folder / "stages" / stage.name)]
        names = {stage.name for stage in stages}
        self.run(
            {stage.name: (train_stage, (recipe, folder, stage.name)) for stage in stages},
            needs={stage.name: tuple(names.intersection(stage.needs)) for stage in stages},
        )

    def run(
        self,
        work: Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]],
        *,
        needs: Mapping[str, tuple[str, ...]] | None = None,
    ) -> dict[str, Any]:
        """Run functions, each as soon as those it needs are done.

        Args:
            work: Module-level function and its arguments, by name; every function comes after
                those it needs. It is also called with ``reporter=``, in the working directory of
                this process and with the same trusted code.
            needs: Names of the functions that each function waits for.

        Returns:
            The result of each function, by name.

        Raises:
            Interrupted: If this process was asked to stop.
            RunError: If Ray is not installed, or a worker was lost too often.
            Exception: The first exception that a function raised, after all tasks have stopped.
        """
        ray = _import_ray()
        log = self.reporter("").log
        log("connecting to Ray, or starting it on this machine, which takes some seconds")
        with self._cluster(ray):
            cores = int(ray.cluster_resources().get("CPU", 0))
            log(waiting_sentence([*work], needs or {}, self.cpus, cores))
            mailbox = ray.remote(num_cpus=0, max_restarts=-1)(_Mailbox).remote()
            task = ray.remote(
                num_cpus=self.cpus,
                num_gpus=self.gpus,
                max_retries=self.retries,
                retry_exceptions=[Interrupted],  # the worker was stopped, but not by this process
            )(_run_task)
            tasks: dict[str, Any] = {}
            for name, (function, arguments) in work.items():
                needed = [tasks[other] for other in (needs or {}).get(name, ())]
                settings = (mailbox, name, Path.cwd(), trusted_names(), self.cpus)
                tasks[name] = task.options(name=name).remote(
                    *settings, function, arguments, *needed
                )
            return self._wait(ray, mailbox, tasks)

    def _wait(self, ray: Any, mailbox: Any, tasks: Mapping[str, Any]) -> dict[str, Any]:
        reporters = {name: self.reporter(name) for name in tasks}
        names = {task: name for name, task in tasks.items()}
        results: dict[str, Any] = {}
        failure: Exception | None = None
        stopping, stop = False, threading.Event()
        with stop_on_signals(stop):
            while names:
                ended, _ = ray.wait(list(names), timeout=0.2)
                with contextlib.suppress(ray.exceptions.RayActorError):  # the actor restarts
                    for name, kind, content in ray.get(mailbox.take.remote()):
                        getattr(reporters[name], kind)(*content)
                for task in ended:
                    name = names.pop(task)
                    try:
                        results[name] = ray.get(task)
                    except ray.exceptions.RayError as error:
                        failure = failure or _task_error(ray, name, error)
                if (stop.is_set() or failure is not None) and not stopping:
                    stopping = True
                    for task in names:
                        ray.cancel(task)
        if stop.is_set():
            raise Interrupted
        if failure is not None:
            raise failure
        return {name: results[name] for name in tasks}

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
                f"cannot connect to a Ray cluster at {address} ({error}); start it, or leave out "
                "--ray-address to start one on this machine."
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


def waiting_sentence(
    names: Sequence[str], needs: Mapping[str, tuple[str, ...]], cpus: int, cores: int
) -> str:
    """Say what tasks wait for when they have been sent to a cluster.

    Args:
        names: Names of the tasks.
        needs: Names of the tasks that each waits for.
        cpus: Cores of a task.
        cores: Cores of the cluster.

    Example:
        >>> needs = {"merger": ("one", "two")}
        >>> waiting_sentence(["one", "two", "merger"], needs, cpus=1, cores=2)
        'Ray has 2 cores, 1 for each task: waiting for workers to start one, two; then merger, \
after one, two'
    """
    first = [name for name in names if not needs.get(name)]
    later = "".join(
        f"; then {name}, after {', '.join(needs[name])}" for name in names if needs.get(name)
    )
    return (
        f"Ray has {cores} cores, {cpus} for each task: waiting for workers to start "
        f"{', '.join(first)}{later}"
    )


def train_stage(recipe: Recipe, folder: Path, name: str, *, reporter: Reporter) -> None:
    """Train one stage of a recipe; the stages it needs are done.

    Args:
        recipe: The recipe.
        folder: The run folder.
        name: Name of the stage.
        reporter: Receives progress and log messages.

    Raises:
        RunError: If another process is training this stage.
        TrainingError: If the stage cannot be trained.
        Interrupted: If this process was asked to stop.
    """
    dataset = recipe.dataset.load()
    stages = {stage.name: stage for stage in recipe.method.stages(recipe.network.maker(dataset))}
    with locked(folder / "stages" / name, LOCK_WAIT_SECONDS):
        execute(
            [*_needed_stages(stages, name), stages[name]],
            train=dataset.train,
            loop=recipe.loop,
            folder=folder,
            seed=recipe.seed,
            fabric=launched(recipe.loop.precision, recipe.loop.batch_size),
            reporter=reporter,
        )


def _needed_stages(stages: Mapping[str, Stage], name: str) -> list[Stage]:
    """Return all stages that a stage needs, directly or not, in the plan's order."""
    names, more = set[str](), set(stages[name].needs)
    while more:
        names |= more
        more = {need for needed in more for need in stages[needed].needs} - names
    return [stage for stage in stages.values() if stage.name in names]


class _Mailbox:
    """Ray actor that stores the reports of workers until the driver takes them."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, tuple[Any, ...]]] = []

    def put(self, name: str, kind: str, content: tuple[Any, ...]) -> None:
        self.messages.append((name, kind, content))

    def take(self) -> list[tuple[str, str, tuple[Any, ...]]]:
        messages, self.messages = self.messages, []
        return messages


def _run_task(
    mailbox: Any,
    name: str,
    folder: Path,
    trusted: tuple[str, ...],
    threads: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    *needed: Any,
) -> Any:
    """Call a function in a worker; Ray has waited for the tasks in ``needed``."""
    import torch

    torch.set_num_threads(threads)
    if not folder.is_dir():
        raise RunError(
            f"{folder} does not exist on {socket.gethostname()}; run from a folder on a file "
            "system that all machines of the cluster share."
        )
    reporter = RelayReporter(lambda *message: mailbox.put.remote(name, *message), seconds=0.2)
    with contextlib.chdir(folder), trusting(*trusted):
        return function(*arguments, reporter=reporter)


def _task_error(ray: Any, name: str, error: Exception) -> Exception:
    """Return the exception that a function raised, or a RunError if its worker was lost."""
    cause = getattr(error, "cause", None)
    if isinstance(error, ray.exceptions.RayTaskError) and isinstance(cause, Exception):
        return cause
    return RunError(
        f"the worker of {name} was lost more often than it may be restarted "
        f"({str(error).splitlines()[0]}). Its finished work is kept: run the same command again "
        "with --resume."
    )


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise RunError(
            "--executor ray needs the package ray: run pip install 'equipoise[ray]'."
        ) from error
    return ray
