"""Worker processes that run work units, each with its own copy of the evaluation context."""

import contextlib
import copy
import multiprocessing
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

import torch

from equipoise.evaluation.attack import AttackResult
from equipoise.evaluation.fresh_copy import StatefulModelError
from equipoise.evaluation.verification import EvaluationError
from equipoise.evaluation.work_unit import EvaluationContext, WorkUnit
from equipoise.runtime.malloc import keep_freed_memory


class Workers:
    """A number of processes that run work units. Use it as a context manager.

    The batches are distributed, not the model: every process holds the whole model, on its own GPU
    if there are several.

    Args:
        context: What units need; it is copied to every process.
        count: Number of processes.
        threads: Number of torch threads in each.

    Raises:
        EvaluationError: If the model or an attack cannot be pickled, or a process dies.
    """

    def __init__(self, context: EvaluationContext, count: int, threads: int = 1) -> None:
        spawn = multiprocessing.get_context("spawn")
        try:
            content = pickle.dumps(_move(copy.deepcopy(context), "cpu"))
        except Exception as error:
            raise EvaluationError(
                f"the model cannot be copied to other processes ({error}); use --workers 1."
            ) from error
        self.processes = []
        self.connections: list[Connection] = []
        for number in range(count):
            connection, worker_end = spawn.Pipe()
            process = spawn.Process(target=_work, args=(worker_end, number, threads), daemon=True)
            process.start()
            worker_end.close()
            self.processes.append(process)
            self.connections.append(connection)
        try:
            for connection in self.connections:
                with _report_death():
                    connection.send_bytes(content)
        except EvaluationError:
            self.__exit__()
            raise

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *problem: object) -> Literal[False]:
        for process in self.processes:
            process.terminate()
            process.join()
        for connection in self.connections:
            connection.close()
        return False

    def run(self, units: Sequence[WorkUnit]) -> Iterator[tuple[WorkUnit, AttackResult, float]]:
        """Run units on the next free process.

        Returns:
            Each unit with its result and the seconds it took, in the order of completion.

        Raises:
            EvaluationError: If an attack failed or a process died.
        """
        waiting, busy = list(reversed(units)), dict[Connection, WorkUnit]()
        free = list(self.connections)
        while waiting or busy:
            while waiting and free:
                connection, unit = free.pop(), waiting.pop()
                with _report_death():
                    connection.send((unit.suite, unit.attack, unit.epsilon, unit.rows.numpy()))
                busy[connection] = unit
            ready = wait(list(busy))
            for connection in [connection for connection in busy if connection in ready]:
                with _report_death():
                    kind, content = connection.recv()
                if kind != "result":
                    raise (StatefulModelError if kind == "stateful" else EvaluationError)(content)
                yield busy.pop(connection), *_unpack(content)
                free.append(connection)


@contextlib.contextmanager
def _report_death() -> Iterator[None]:
    """Turn a closed connection, whose process has died, into an ``EvaluationError``."""
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise EvaluationError(
            "a process of the evaluation was killed (out of memory?). Finished units are kept; "
            "run the same command again with fewer --workers."
        ) from error


def _work(connection: Connection, number: int, threads: int) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    # The pickle comes from the parent process, not from a file.
    context: EvaluationContext = pickle.loads(connection.recv_bytes())
    if torch.cuda.is_available():
        context = _move(context, f"cuda:{number % torch.cuda.device_count()}")
    with contextlib.suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            suite, attack, epsilon, rows = connection.recv()
            rows = torch.from_numpy(rows)
            unit = WorkUnit(suite=suite, attack=attack, epsilon=epsilon, rows=rows)
            try:
                connection.send(("result", _pack(*context.run(unit))))
            except EvaluationError as error:
                connection.send(("error", str(error)))
            except StatefulModelError as error:
                connection.send(("stateful", str(error)))


def _move(context: EvaluationContext, device: str) -> EvaluationContext:
    context.model.to(device)
    if context.copies is not None:
        context.copies.pristine.to(device)
    for suite in context.suites:
        for attack in suite.attacks:
            source = getattr(attack, "source", None)
            if isinstance(source, torch.nn.Module):  # a surrogate
                source.to(device)
    return replace(context, split=context.split.to(device))


def _pack(result: AttackResult, seconds: float) -> tuple[Any, ...]:
    # NumPy arrays travel by value; torch would send handles to shared memory.
    return (
        result.broken.cpu().numpy(),
        result.images.detach().cpu().contiguous().numpy(),
        result.forward_passes,
        result.backward_passes,
        None if result.logits is None else result.logits.cpu().numpy(),
        seconds,
    )


def _unpack(content: tuple[Any, ...]) -> tuple[AttackResult, float]:
    broken, images, forward_passes, backward_passes, logits, seconds = content
    result = AttackResult(
        broken=torch.from_numpy(broken),
        images=torch.from_numpy(images),
        forward_passes=forward_passes,
        backward_passes=backward_passes,
        logits=None if logits is None else torch.from_numpy(logits),
    )
    return result, seconds
