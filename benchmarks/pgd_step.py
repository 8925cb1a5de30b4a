"""One PGD-10 training step of a wide ResNet: ours against the usual loop and the leanest peer's.

Run it from the repository: ``python benchmarks/pgd_step.py``.
"""

from typing import Any

import torch
from steps import batch, check_equal, network, our_step, peer_step, pgd_task
from timing import Product, comparison, operations, settings, share_of_ceiling, take_turns
from timing import write_record as write

STEPS = 10


def one_network(depth: int, width: int, count: int, rounds: int) -> dict[str, Any]:
    name = f"WRN-{depth}-{width}"
    images, labels = batch(count)

    def ours(precision: str = "bf16-mixed") -> Any:
        return our_step(pgd_task(network(depth, width), STEPS), images, labels, precision)

    def peer(lean: bool) -> Any:
        return peer_step(network(depth, width), images, labels, STEPS, lean=lean)

    small = [part[: max(2, count // 8)] for part in (images, labels)]
    losses = check_equal(
        [
            our_step(pgd_task(network(depth, width), STEPS), *small, "32-true"),
            peer_step(network(depth, width), *small, STEPS, lean=True),
            peer_step(network(depth, width), *small, STEPS, lean=False),
        ],
        name,
    )
    product = Product(dtype=torch.bfloat16)
    step = ours()
    one_pass = operations(network(depth, width), images)
    turns = take_turns(
        {"ours": step, "usual loop": peer(False), "leanest peer": peer(True), "ceiling": product},
        rounds,
    )
    what = f"PGD-{STEPS} training step, {name}, batch {count}"
    return {
        "network": name,
        "batch": count,
        "losses_in_float32": losses,
        "images_a_second": round(count / turns.median("ours"), 1),
        "comparisons": [
            comparison(turns, what, "ours", "usual loop", goal=3.5),
            comparison(turns, what, "ours", "leanest peer", goal=2.7),
        ],
        "share_of_ceiling": share_of_ceiling(turns, "ours", one_pass * (2 * STEPS + 3), product),
        "profile": profile(step),
    }


def profile(step: Any) -> list[dict[str, Any]]:
    """Where the time goes: share of each operator's own time."""
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
            ]
        },
    )


if __name__ == "__main__":
    main()
