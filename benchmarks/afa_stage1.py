"""AFA's stage I with five branches: against a sequential Algorithm 1, its split against PGD-AT, and
over TRADES and MART against clean images that are predicted once for each attacked branch.

Run it from the repository: ``python benchmarks/afa_stage1.py``.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from steps import (
    Step,
    algorithm_1,
    batch,
    branch_task,
    check_equal,
    exact,
    network,
    our_step,
    pgd_task,
)
from timing import Apart, comparison, fastest, operations, settings, share_of_ceiling, take_turns
from timing import write_record as write
from torch import Tensor

from equipoise.methods.branch_task import BranchTask
from equipoise.models import with_branches
from equipoise.objectives import MART, TRADES, Batch, Objective

STEPS, BRANCHES = 10, 5


def ours(count: int, precision: str = "bf16-mixed") -> Step:
    task = branch_task(network(10, 2), BRANCHES, STEPS, split_batch=False)
    return our_step(task, *batch(count), precision)


def peer(count: int, lean: bool) -> Step:
    return algorithm_1(with_branches(network(10, 2), BRANCHES), *batch(count), STEPS, lean=lean)


def full(count: int, rounds: int) -> dict[str, Any]:
    """Every image through every branch."""
    branched = partial(with_branches, network(10, 2), BRANCHES)
    peers: list[Step] = [
        algorithm_1(*exact(branched(), *batch(8)), STEPS, lean=lean) for lean in (True, False)
    ]
    losses = check_equal([ours(8, "64-true"), *peers], "stage I")
    ceiling = fastest(torch.bfloat16)
    turns = take_turns(
        {
            "ours": Apart(partial(ours, count)),
            "Algorithm 1, usual loop": Apart(partial(peer, count, False)),
            "Algorithm 1, leanest peer": Apart(partial(peer, count, True)),
            "ceiling": ceiling,
        },
        rounds,
    )
    what = f"AFA stage I, {BRANCHES} branches, WRN-10-2, batch {count}"
    # Gradients of the images in all branches but the clean one, then one step of training in all.
    passes = 2 * STEPS * (BRANCHES - 1) + 3 * BRANCHES
    one_pass = operations(network(10, 2), batch(count)[0])
    return {
        "losses_in_float64": losses,
        "comparisons": [
            comparison(turns, what, "ours", "Algorithm 1, usual loop", goal=3.0),
            comparison(turns, what, "ours", "Algorithm 1, leanest peer"),
        ],
        "share_of_ceiling": share_of_ceiling(turns, "ours", one_pass * passes, ceiling),
    }


def split(count: int, rounds: int) -> dict[str, Any]:
    """Every image through one branch, beside PGD-AT and the full schedule, all of them ours."""
    images, labels = batch(count)
    tasks = {
        "AFA, split": branch_task(network(10, 2), BRANCHES, STEPS, split_batch=True),
        "PGD-AT": pgd_task(network(10, 2), STEPS),
        "AFA, full": branch_task(network(10, 2), BRANCHES, STEPS, split_batch=False),
    }
    steps = {name: our_step(task, images, labels) for name, task in tasks.items()}
    turns = take_turns(steps, rounds)
    what = f"An epoch of AFA stage I with split_batch, {BRANCHES} branches, WRN-10-2, batch {count}"
    return {
        "comparisons": [
            comparison(turns, what, "AFA, split", "PGD-AT", sense="cost", goal=1.3),
            comparison(turns, what, "AFA, split", "AFA, full", sense="cost"),
        ]
    }


class PredictsAgain(BranchTask):
    """Stage I as before 2026-12: the clean images of every attacked branch are predicted again."""

    def _loss(self, objective: Objective, batch: Batch) -> Tensor:
        again = partial(self.network, branch=0)
        return super()._loss(objective, replace(batch, predict_clean=again))


def clean_once(count: int, rounds: int) -> dict[str, Any]:
    """Over TRADES and MART, the clean images predicted once a step or K times."""
    images, labels = batch(count)
    comparisons = []
    for objective in (TRADES(), MART()):
        name = type(objective).__name__
        steps = {}
        for what, kind in (("once", BranchTask), (f"{BRANCHES} times", PredictsAgain)):
            made = branch_task(
                network(10, 2), BRANCHES, STEPS, split_batch=False, objective=objective
            )
            steps[f"clean images {what}"] = our_step(
                kind(made.network, made.method), images, labels
            )
        turns = take_turns(steps, rounds)
        what = f"AFA stage I over {name}, {BRANCHES} branches, WRN-10-2, batch {count}"
        comparisons.append(
            comparison(turns, what, "clean images once", f"clean images {BRANCHES} times")
        )
    return {"comparisons": comparisons}


def main() -> None:
    """Run, print, write the record."""
    given = settings(__doc__, batch=64, rounds=5, split_batch=128, split_rounds=7)
    write(
        __file__,
        given,
        {
            "full": full(given.batch, given.rounds),
            "split": split(given.split_batch, given.split_rounds),
            "clean_once": clean_once(given.batch, given.rounds),
        },
    )


if __name__ == "__main__":
    main()
