"""Common parts of the speed benchmarks: taking turns, ratios, the machine's ceiling, the record.

Alternatives take turns within one run, so that whatever else the machine does falls on all of them
alike; ratios are those of each round, never of two averages.
"""

import argparse
import contextlib
import datetime
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy
import torch
from torch.utils.flop_counter import FlopCounterMode

from equipoise.runtime.environment import environment
from equipoise.runtime.files import write_json

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Seconds of each alternative, round by round.

    Args:
        wall: By name, seconds on the clock.
        processor: By name, seconds of all threads: what to look at while other work shares the
            cores; idle threads that wait in a loop count too.
    """

    wall: dict[str, list[float]]
    processor: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Median seconds on the clock."""
        return float(numpy.median(self.wall[name]))


class Apart:
    """An alternative in a process of its own, so that what one of them does to its process, such
    as keeping freed memory, does nothing for the others. A call gives seconds on the clock and of
    the processor.

    Args:
        make: Makes what is called, in that process.
    """

    def __init__(self, make: Callable[[], Callable[[], Any]]) -> None:
        context = multiprocessing.get_context("spawn")
        self.line, there = context.Pipe()
        about = (make, torch.get_num_threads(), there)
        context.Process(target=_serve, args=about, daemon=True).start()
        there.close()

    def __call__(self) -> tuple[float, float]:
        self.line.send(None)
        return self.line.recv()


def _serve(make: Callable[[], Callable[[], Any]], threads: int, line: Connection) -> None:
    torch.set_num_threads(threads)
    call = make()
    with contextlib.suppress(EOFError):
        while True:
            line.recv()
            line.send(seconds_of(call))


def seconds_of(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of a call, on the clock and of the processor."""
    began, spent = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - began, time.process_time() - spent


def take_turns(alternatives: Mapping[str, Callable[[], Any]], rounds: int) -> Turns:
    """Run every alternative once to warm up, then all of them in turn, round after round.

    Args:
        alternatives: What to time, by name.
        rounds: How often, 1 or more.
    """
    turns = Turns(
        wall={name: [] for name in alternatives}, processor={name: [] for name in alternatives}
    )
    for call in alternatives.values():
        call()
    for number in range(rounds):
        order = list(alternatives.items())
        for name, call in order if number % 2 else order[::-1]:
            wall, processor = call() if isinstance(call, Apart) else seconds_of(call)
            turns.wall[name].append(wall)
            turns.processor[name].append(processor)
    return turns


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles."""
    low, middle, high = numpy.quantile(values, (0.25, 0.5, 0.75))
    return {"median": rounded(middle), "quartiles": [rounded(low), rounded(high)]}


def comparison(
    turns: Turns,
    what: str,
    ours: str,
    other: str,
    *,
    sense: Literal["speed-up", "cost"] = "speed-up",
    goal: float | None = None,
) -> dict[str, Any]:
    """One line of a benchmark: ours beside an alternative.

    Args:
        turns: Times of both.
        what: What was done, for the table.
        ours: Name of ours.
        other: Name of the alternative.
        sense: ``"speed-up"``: the ratio is the other's time by ours; ``"cost"``: ours by the
            other's.
        goal: What the ratio should reach, or for a cost, not exceed.

    Returns:
        The line, printed too; ``ratio`` is the median of the paired ratios, with quartiles.
    """
    top, bottom = (other, ours) if sense == "speed-up" else (ours, other)

    def paired(times: Mapping[str, list[float]]) -> dict[str, Any]:
        return spread([a / b for a, b in zip(times[top], times[bottom], strict=True)])

    line = {
        "what": what,
        "ours": ours,
        "against": other,
        "sense": sense,
        "goal": goal,
        "rounds": len(turns.wall[ours]),
        "seconds": {"ours": rounded(turns.median(ours)), "against": rounded(turns.median(other))},
        "ratio": paired(turns.wall),
        "ratio_of_processor_seconds": paired(turns.processor),
    }
    ratio, least = line["ratio"], "at least" if sense == "speed-up" else "at most"
    print(
        f"{what}: {ours} against {other}: {sense} {ratio['median']:.2f} "
        f"({ratio['quartiles'][0]:.2f} to {ratio['quartiles'][1]:.2f}; processor "
        f"{line['ratio_of_processor_seconds']['median']:.2f})"
        + (f", to be {least} {goal:g}" if goal else ""),
        flush=True,
    )
    return line


@dataclass(frozen=True, kw_only=True)
class Product:
    """A large square matrix product.

    Args:
        dtype: The precision.
        size: Rows of both matrices.
        repeats: Products a call.
    """

    dtype: torch.dtype
    size: int = 2048
    repeats: int = 32
    factors: list[torch.Tensor] = field(default_factory=list)

    @property
    def operations(self) -> int:
        """Floating-point operations of a call."""
        return 2 * self.size**3 * self.repeats

    def __call__(self) -> None:
        """Multiply."""
        if not self.factors:
            self.factors.extend(torch.randn(2, self.size, self.size).to(self.dtype))
        for _ in range(self.repeats):
            self.factors[0] @ self.factors[1]

    def __str__(self) -> str:
        return f"product of {self.size} rows"


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A large 3x3 convolution in channels_last, as wide ResNets have them.

    Args:
        dtype: The precision.
        channels: Of its images and of what it makes of them.
        size: Pixels a side.
        count: Images.
        repeats: Convolutions a call.
    """

    dtype: torch.dtype
    channels: int
    size: int
    count: int = 16
    repeats: int = 64
    factors: list[torch.Tensor] = field(default_factory=list)

    @property
    def operations(self) -> int:
        """Floating-point operations of a call."""
        return 2 * self.count * self.size**2 * 9 * self.channels**2 * self.repeats

    @torch.no_grad()
    def __call__(self) -> None:
        """Convolve."""
        if not self.factors:
            shapes = [(self.count, self.channels, self.size, self.size)]
            shapes += [(self.channels, self.channels, 3, 3)]
            for shape in shapes:
                factor = torch.randn(shape).to(self.dtype, memory_format=torch.channels_last)
                self.factors.append(factor)
        for _ in range(self.repeats):
            torch.nn.functional.conv2d(*self.factors, padding=1)

    def __str__(self) -> str:
        return f"3x3 convolution of {self.channels} channels, {self.size}x{self.size}"


Kernel = Product | Convolution


def fastest(dtype: torch.dtype) -> Kernel:
    """The machine's ceiling in one precision: of large products and convolutions, the one with most
    operations a second, by the best of three calls, each long enough to reach full speed."""
    kernels: list[Kernel] = [Product(dtype=dtype, size=size) for size in (1024, 2048)]
    kernels += [
        Convolution(dtype=dtype, channels=channels, size=size)
        for channels, size in ((160, 32), (320, 16), (640, 8))
    ]

    def rate(kernel: Kernel) -> float:
        kernel()
        return kernel.operations / min(seconds_of(kernel)[0] for _ in range(3))

    return max(kernels, key=rate)


def operations(network: torch.nn.Module, images: torch.Tensor) -> int:
    """Floating-point operations of the products and convolutions in a forward pass, twice the
    multiplications. A gradient with respect to the images costs as much again, one with respect to
    the weights too."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    return counter.get_total_flops()


def share_of_ceiling(turns: Turns, name: str, count: int, ceiling: Kernel) -> dict[str, Any]:
    """What share of the machine's ceiling an alternative reaches.

    Args:
        turns: Times, the ceiling's among them under the name ``"ceiling"``.
        name: The alternative.
        count: Its floating-point operations.
        ceiling: The ceiling.
    """
    pairs = zip(turns.wall[name], turns.wall["ceiling"], strict=True)
    found = {
        "precision": str(ceiling.dtype).removeprefix("torch."),
        "ceiling": str(ceiling),
        "operations": count,
        "ceiling_operations_a_second": round(ceiling.operations / turns.median("ceiling")),
        **spread([(count / own) / (ceiling.operations / top) for own, top in pairs]),
    }
    print(f"{name}: {100 * found['median']:.0f} % of the {found['precision']} ceiling", flush=True)
    return found


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The b of values = a * size**b, fitted by least squares to the logarithms."""
    return rounded(numpy.polyfit(numpy.log(sizes), numpy.log(values), 1)[0])


def settings(description: str | None, **defaults: Any) -> argparse.Namespace:
    """The command line of a benchmark: numbers to change, threads and the record's place."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--record", type=Path, help="by default beside the script")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    return given


def write_record(script: str, given: argparse.Namespace, content: dict[str, Any]) -> None:
    """Write the dated record of a benchmark beside its script, or where the caller said."""
    place = given.record or HERE / f"{Path(script).stem}.json"
    about = {name: value for name, value in vars(given).items() if name != "record"}
    record = {
        "benchmark": Path(script).stem,
        "date": datetime.date.today().isoformat(),
        "settings": about,
        "load_before_and_now": [rounded(value) for value in (_LOAD, os.getloadavg()[0])],
        **content,
        "environment": environment(),
    }
    write_json(place, record)
    print(f"wrote {place}")


def rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{float(value):.4g}")


_LOAD = os.getloadavg()[0]
