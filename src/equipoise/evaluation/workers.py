"""Units computed by several processes at once, each with a bench of its own."""

import contextlib
import copy
import multiprocessing
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

import torch
from torch import Tensor

from equipoise.evaluation.attack import AttackResult
from equipoise.evaluation.verification import EvaluationError
from equipoise.evaluation.work_unit import EvaluationContext
from equipoise.runtime.malloc import keep_freed_memory

Unit = tuple[int, int, float, Tensor]
"""Suite, attack, strength and rows, as ``EvaluationContext.run`` takes them."""


class Workers:
    """A number of processes that run units. Use it as a context manager.

    Examples are shared out, not the model: each process has the whole model, on a graphics card of
    its own where there are several.

    Args:
        bench: What units need; it is copied to every process.
        count: How many processes.
        threads: torch threads in each.

    Raises:
        EvaluationError: If the model or an attack cannot be copied, or a process dies.
    """

    def __init__(self, bench: EvaluationContext, count: int, threads: int = 1) -> None:
        context = multiprocessing.get_context("spawn")
        try:
            content = pickle.dumps(_on(copy.deepcopy(bench), "cpu"))
        except Exception as error:
            raise EvaluationError(
                f"the model cannot be copied to other processes ({error}); use --workers 1."
            ) from error
        self.processes = []
        self.lines: list[Connection] = []
        for number in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, number, threads), daemon=True)
            process.start()
            there.close()
            self.processes.append(process)
            self.lines.append(here)
        try:
            for line in self.lines:
                with _alive():
                    line.send_bytes(content)
        except EvaluationError:
            self.__exit__()
            raise

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *problem: object) -> Literal[False]:
        for process in self.processes:
            process.terminate()
            process.join()
        for line in self.lines:
            line.close()
        return False

    def run(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, AttackResult, float]]:
        """Run units, wherever a process is free.

        Returns:
            Each unit with what was found and the seconds it took, in the order of completion.

        Raises:
            EvaluationError: If an attack failed or a process died.
        """
        waiting, busy = list(reversed(units)), dict[Connection, Unit]()
        free = list(self.lines)
        while waiting or busy:
            while waiting and free:
                line, unit = free.pop(), waiting.pop()
                with _alive():
                    line.send((*unit[:3], unit[3].numpy()))
                busy[line] = unit
            ready = wait(list(busy))
            for line in [line for line in busy if line in ready]:
                with _alive():
                    kind, content = line.recv()
                if kind == "error":
                    raise EvaluationError(content)
                yield busy.pop(line), *_unpacked(content)
                free.append(line)


@contextlib.contextmanager
def _alive() -> Iterator[None]:
    """A line whose other end is gone means that its process died, at whatever it was."""
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise EvaluationError(
            "a process of the evaluation was killed (out of memory?). What was finished is kept; "
            "run the same command again with fewer --workers."
        ) from error


def _work(line: Connection, number: int, threads: int) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    bench: EvaluationContext = pickle.loads(
        line.recv_bytes()
    )  # from our own parent process, not from a file
    if torch.cuda.is_available():
        bench = _on(bench, f"cuda:{number % torch.cuda.device_count()}")
    with contextlib.suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            suite, attack, epsilon, rows = line.recv()
            try:
                found, seconds = bench.run(suite, attack, epsilon, torch.from_numpy(rows))
                line.send(("found", _packed(found, seconds)))
            except EvaluationError as error:
                line.send(("error", str(error)))


def _on(bench: EvaluationContext, device: str) -> EvaluationContext:
    bench.model.to(device)
    for suite in bench.suites:
        for attack in suite.attacks:
            source = getattr(attack, "source", None)
            if isinstance(source, torch.nn.Module):  # a surrogate
                source.to(device)
    return replace(bench, split=bench.split.to(device))


def _packed(found: AttackResult, seconds: float) -> tuple[Any, ...]:
    return (
        found.broken.cpu().numpy(),
        found.images.detach().cpu().contiguous().numpy(),
        found.forward_passes,
        found.backward_passes,
        seconds,
    )


def _unpacked(content: tuple[Any, ...]) -> tuple[AttackResult, float]:
    broken, images, forward, backward, seconds = content
    found = AttackResult(
        broken=torch.from_numpy(broken),
        images=torch.from_numpy(images),
        forward_passes=forward,
        backward_passes=backward,
    )
    return found, seconds
