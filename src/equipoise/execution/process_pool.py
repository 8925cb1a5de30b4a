"""Several pieces of work at the same time, one process each, all heard by one reporter.

Small networks gain nothing from a second thread, so two runs of one thread each on two cores take
half the time of two runs one after the other.
"""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from equipoise.runtime.errors import RunError
from equipoise.runtime.reporter import Reporter
from equipoise.runtime.signals import Interrupted, stop_on_signals

Work = Callable[..., Any]


def side_by_side(
    work: Mapping[str, tuple[Work, tuple[Any, ...]]],
    *,
    workers: int,
    threads: int,
    reporter: Callable[[str], Reporter],
) -> dict[str, Any]:
    """Run functions in processes of their own and wait for all of them.

    Args:
        work: By name, a module-level function and its arguments; it is called with
            ``reporter=`` besides. Begun in order.
        workers: Processes at the same time.
        threads: torch threads in each.
        reporter: Gives the reporter of a name, called in this process.

    Returns:
        Each function's answer, by name.

    Raises:
        Interrupted: If this process was asked to stop; every worker was asked to, and has.
        RunError: If a worker was killed.
        Exception: The first one that a function raised, after the other workers have stopped.
    """
    context = multiprocessing.get_context("spawn")
    waiting, running = dict(work), dict[str, tuple[BaseProcess, Connection]]()
    reporters = {name: reporter(name) for name in work}
    answers: dict[str, Any] = {}
    failed: BaseException | None = None
    asked, stop = False, threading.Event()
    with stop_on_signals(stop):
        while running or (waiting and not asked):
            while waiting and not asked and len(running) < workers:
                name = next(iter(waiting))
                here, there = context.Pipe(duplex=False)
                arguments = (there, threads, *waiting.pop(name))
                process: BaseProcess = context.Process(target=_worker, args=arguments, name=name)
                process.start()
                there.close()
                running[name] = (process, here)
            for name, error in _hear(running, reporters, answers):
                failed = failed or error
                ended, connection = running.pop(name)
                ended.join()
                connection.close()
            if (stop.is_set() or failed is not None) and not asked:
                asked = True
                for other, _ in running.values():
                    other.terminate()
    if failed is not None and not isinstance(failed, Interrupted):
        raise failed
    if stop.is_set() or failed is not None:
        raise Interrupted
    return {name: answers[name] for name in work}


def _hear(
    running: Mapping[str, tuple[BaseProcess, Connection]],
    reporters: Mapping[str, Reporter],
    answers: dict[str, Any],
) -> list[tuple[str, BaseException | None]]:
    """Pass on what workers say; the names of those that ended, and with which error."""
    ended: list[tuple[str, BaseException | None]] = []
    ready = wait([connection for _, connection in running.values()], timeout=0.2)
    for name, (process, connection) in running.items():
        if connection not in ready:
            continue
        try:
            kind, content = connection.recv()
        except EOFError:
            process.join()
            ended.append((name, _killed(name, process.exitcode)))
            continue
        if kind == "answer":
            answers[name] = content
            ended.append((name, None))
        elif kind == "error":
            ended.append((name, content))
        else:
            getattr(reporters[name], kind)(*content)
    return ended


def _killed(name: str, status: int | None) -> BaseException:
    if status in (-signal.SIGTERM, -signal.SIGINT):
        return Interrupted()
    return RunError(
        f"the process that ran {name} ended with status {status} (out of memory, or killed). "
        "What it had finished is kept: run the same command again to go on."
    )


class _Relay:
    """A reporter that speaks to the parent process; steps at most ten times a second."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.spoke = 0.0

    def begin(self, stage: str, steps: int, done: int) -> None:
        self.connection.send(("begin", (stage, steps, done)))

    def step(self, done: int, text: str) -> None:
        if time.monotonic() - self.spoke > 0.1:
            self.spoke = time.monotonic()
            self.connection.send(("step", (done, text)))

    def log(self, text: str) -> None:
        self.connection.send(("log", (text,)))


def _worker(
    connection: Connection, threads: int, function: Work, arguments: tuple[Any, ...]
) -> None:
    import torch

    torch.set_num_threads(threads)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        message = ("answer", function(*arguments, reporter=_Relay(connection)))
    except KeyboardInterrupt:
        message = ("error", Interrupted())
    except BaseException as error:
        message = ("error", error)
    connection.send(message)


def _end_with_parent() -> None:
    """Stop, with a checkpoint, when the parent is gone: an orphan would write beside its heir."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
