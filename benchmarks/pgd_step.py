"""One PGD-10 training step of a wide ResNet: ours against the usual loop and the leanest peer's.

Run it from the repository: ``python benchmarks/pgd_step.py``.
"""

from functools import partial
from typing import Any

import torch
from steps import Step, batch, check_equal, exact, network, our_step, peer_step, pgd_task
from timing import Apart, comparison, fastest, operations, settings, share_of_ceiling, take_turns
from timing import write_record as write

STEPS = 10
LEAN_HALF, FULL = "leanest peer, if in bf16 and channels_last", "ours in float32"


def ours(depth: int, width: int, count: int, precision: str = "bf16-mixed") -> Step:
    return our_step(pgd_task(network(depth, width), STEPS), *batch(count), precision)


def peer(depth: int, width: int, count: int, lean: bool, half: bool = False) -> Step:
    return peer_step(network(depth, width), *batch(count), STEPS, lean=lean, half=half)


def one_network(depth: int, width: int, count: int, rounds: int) -> dict[str, Any]:
    name, small = f"WRN-{depth}-{width}", (depth, width, max(2, count // 8))
    peers = [
        peer_step(*exact(network(depth, width), *batch(small[2])), STEPS, lean=lean)
        for lean in (True, False)
    ]
    losses = check_equal([ours(*small, "64-true"), *peers], name)
    ceiling, shape = fastest(torch.bfloat16), (depth, width, count)
    turns = take_turns(
        {
            "ours": Apart(partial(ours, *shape)),
            "usual loop": Apart(partial(peer, *shape, False)),
            "leanest peer": Apart(partial(peer, *shape, True)),
            LEAN_HALF: Apart(partial(peer, *shape, True, True)),
            FULL: Apart(partial(ours, *shape, "32-true")),
            "ceiling": ceiling,
        },
        rounds,
    )
    what = f"PGD-{STEPS} training step, {name}, batch {count}"
    step_operations = operations(network(depth, width), batch(count)[0]) * (2 * STEPS + 3)
    return {
        "network": name,
        "batch": count,
        "losses_in_float64": losses,
        "images_a_second": round(count / turns.median("ours"), 1),
        "comparisons": [
            comparison(turns, what, "ours", "usual loop", goal=3.5),
            comparison(turns, what, "ours", "leanest peer", goal=2.7),
            comparison(turns, what, "ours", LEAN_HALF),
            comparison(turns, what, FULL, "leanest peer"),
        ],
        "share_of_ceiling": share_of_ceiling(turns, "ours", step_operations, ceiling),
        "profile": profile(ours(*shape)),
    }


def profile(step: Any) -> list[dict[str, Any]]:
    """Where the time goes: share of each operator's own time."""
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        step()
    events = found.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    first = sorted(events, key=lambda event: -event.self_cpu_time_total)[:12]
    return [
        {
            "operator": event.key,
            "calls": event.count,
            "share": round(event.self_cpu_time_total / total, 3),
        }
        for event in first
    ]


def main() -> None:
    """Run, print, write the record."""
    given = settings(__doc__, rounds=7, large_rounds=3)
    write(
        __file__,
        given,
        {
            "networks": [
                one_network(10, 2, 128, given.rounds),
                one_network(28, 10, 4, given.large_rounds),
                one_network(28, 10, 16, given.large_rounds),
            ]
        },
    )


if __name__ == "__main__":
    main()
