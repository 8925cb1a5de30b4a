"""The command ``equipoise frontier``."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from equipoise.cli.options import (
    Data,
    Folder,
    Number,
    Switch,
    console,
    errors,
    optional,
    print_line,
)
from equipoise.runtime.signals import Interrupted, exit_status


def frontier(
    methods: Annotated[tuple[str, ...], tyro.conf.Positional, optional("METHOD...")],
    *,
    budget: Annotated[float, tyro.conf.arg(metavar="SECONDS")],
    dataset: Annotated[str | None, optional("NAME")] = None,
    data: Data = None,
    seeds: Number = 1,
    images: Annotated[int | None, optional("N")] = None,
    validation_images: Number = 1000,
    out: Folder = Path("runs/frontier"),
    workers: Annotated[int | None, optional("N")] = None,
    self_checks: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True,
    executor: Literal["local", "ray"] = "local",
    ray_address: Annotated[str | None, optional("ADDRESS")] = None,
    dry_run: Switch = False,
) -> None:
    """Compare methods at the same measured training cost: clean against worst-case accuracy.
    To continue an interrupted comparison, run the same command again.

    Args:
        methods: pgd_at, nfgsm, trades, mart, gat, iat, fat, lbgat, oat, afa or afs, each over
            usual values of its one knob; METHOD=V,V for other values, such as trades=1,3,6; or
            RECIPE:FIELD=V,V for any field of any recipe.
        budget: Seconds of each training: processor seconds over all threads, or seconds on a GPU.
        dataset: Data set; digits by default.
        data: Folder or file of data, whose format is recognised, or module:function.
        seeds: Trainings of each candidate, with seeds 0 to N-1.
        images: Test images to judge on; all by default.
        validation_images: Images held out of training, on which points are chosen.
        out: Folder for runs, table and figure.
        workers: Trainings at a time, one thread each; one for each core by default.
        self_checks: Run the self-checks on the chosen points.
        executor: Run trainings in processes here, or on a Ray cluster.
        ray_address: Address of the Ray cluster; by default RAY_ADDRESS, or one started here.
        dry_run: Only measure the cost of an epoch, and print what would be trained.
    """
    from equipoise.frontier import FrontierSettings, parse_contender
    from equipoise.frontier import frontier as compare
    from equipoise.recipes.datasets import named_source
    from equipoise.report.frontier import rich_frontier, verdict
    from equipoise.runtime.files import read_json
    from equipoise.runtime.progress import Terminal

    source = named_source(dataset, data) if dataset or data else None
    contenders = [parse_contender(text, source) for text in methods]
    settings = FrontierSettings(
        budget=budget,
        seeds=tuple(range(seeds)),
        validation_images=validation_images,
        test_images=images,
        checks=self_checks,
        workers=workers,
    )
    try:
        with Terminal(console) as terminal:
            made = compare(
                contenders,
                out,
                settings,
                plan_only=dry_run,
                executor=_executor(executor, ray_address, terminal),
                reporter=terminal.named,
            )
    except Interrupted:
        errors.print("stopped; finished work is saved. Run the same command to continue.")
        sys.exit(exit_status())
    if made.files:
        document = read_json(made.files[0])
        console.print(rich_frontier(document))
        for sentence in verdict(document):
            print_line(sentence)
        print_line(f"frontier: {', '.join(str(path) for path in made.files)}")


def _executor(kind: str, address: str | None, terminal: Any) -> Any:
    from equipoise.execution.ray_cluster import RayExecutor

    if kind == "local":
        return None
    return RayExecutor(address=address, reporter=terminal.named)
