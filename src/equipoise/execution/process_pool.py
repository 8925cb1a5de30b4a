"""Run functions in parallel worker processes, and report their progress in this process.

Small networks gain nothing from a second thread, so on two cores, two runs at a time with one
thread each take half the time of two runs in sequence.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from equipoise.execution.relay import RelayReporter
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
    """Run functions in separate processes and wait for all of them.

    Args:
        work: Module-level function and its arguments, by name. The function is also called with
            ``reporter=``. Functions start in this order.
        workers: Number of processes at a time.
        threads: torch threads per process.
        reporter: Returns the reporter for a name; called in this process.

    Returns:
        The result of each function, by name.

    Raises:
        Interrupted: If this process was asked to stop, after all workers have stopped.
        RunError: If a worker was killed.
        Exception: The first exception that a function raised, after all workers have stopped.
    """
    context = multiprocessing.get_context("spawn")
    waiting, running = dict(work), dict[str, tuple[BaseProcess, Connection]]()
    reporters = {name: reporter(name) for name in work}
    results: dict[str, Any] = {}
    failure: BaseException | None = None
    stopping, stop = False, threading.Event()
    with stop_on_signals(stop):
        while running or (waiting and not stopping):
            while waiting and not stopping and len(running) < workers:
                name = next(iter(waiting))
                receiver, sender = context.Pipe(duplex=False)
                arguments = (sender, threads, *waiting.pop(name))
                process: BaseProcess = context.Process(target=_worker, args=arguments, name=name)
                process.start()
                sender.close()
                running[name] = (process, receiver)
            for name, error in _receive(running, reporters, results):
                failure = failure or error
                ended, connection = running.pop(name)
                ended.join()
                connection.close()
            if (stop.is_set() or failure is not None) and not stopping:
                stopping = True
                for other, _ in running.values():
                    other.terminate()
    if failure is not None and not isinstance(failure, Interrupted):
        raise failure
    if stop.is_set() or failure is not None:
        raise Interrupted
    return {name: results[name] for name in work}


def _receive(
    running: Mapping[str, tuple[BaseProcess, Connection]],
    reporters: Mapping[str, Reporter],
    results: dict[str, Any],
) -> list[tuple[str, BaseException | None]]:
    """Handle messages from workers; return the names of ended workers with their errors."""
    ended: list[tuple[str, BaseException | None]] = []
    ready = wait([connection for _, connection in running.values()], timeout=0.2)
    for name, (process, connection) in running.items():
        if connection not in ready:
            continue
        try:
            kind, content = connection.recv()
        except EOFError:
            process.join()
            ended.append((name, _exit_error(name, process.exitcode)))
            continue
        if kind == "result":
            results[name] = content
            ended.append((name, None))
        elif kind == "error":
            ended.append((name, content))
        else:
            getattr(reporters[name], kind)(*content)
    return ended


def _exit_error(name: str, status: int | None) -> BaseException:
    if status in (-signal.SIGTERM, -signal.SIGINT):
        return Interrupted()
    return RunError(
        f"the process that ran {name} ended with status {status} (out of memory, or killed). "
        "Its finished work is kept: run the same command again to continue."
    )


def _worker(
    connection: Connection, threads: int, function: Work, arguments: tuple[Any, ...]
) -> None:
    import torch

    torch.set_num_threads(threads)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    reporter = RelayReporter(lambda *message: connection.send(message), seconds=0.1)
    try:
        message = ("result", function(*arguments, reporter=reporter))
    except KeyboardInterrupt:
        message = ("error", Interrupted())
    except BaseException as error:
        message = ("error", error)
    connection.send(message)


def _end_with_parent() -> None:
    """Stop with a checkpoint when the parent dies, before a new run writes to the same folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
