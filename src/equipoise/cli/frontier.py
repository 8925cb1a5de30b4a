"""The command ``equipoise frontier``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from equipoise.cli.options import (
    Count,
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


@dataclass(frozen=True, kw_only=True)
class FrontierFlags:
    """Flags of ``equipoise frontier``.

    Args:
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

    budget: Annotated[float, tyro.conf.arg(metavar="SECONDS")]
    dataset: Annotated[str | None, optional("NAME")] = None
    data: Data = None
    seeds: Number = 1
    images: Count = None
    validation_images: Number = 1000
    out: Folder = Path("runs/frontier")
    workers: Count = None
    self_checks: bool = True
    executor: Literal["local", "ray"] = "local"
    ray_address: Annotated[str | None, optional("ADDRESS")] = None
    dry_run: Switch = False


def frontier(
    methods: Annotated[tuple[str, ...], tyro.conf.Positional, optional("METHOD...")],
    options: Annotated[FrontierFlags, tyro.conf.OmitArgPrefixes],
) -> None:
    """Compare methods at the same measured training cost: clean against worst-case accuracy.
    To continue an interrupted comparison, run the same command again.

    Args:
        methods: pgd_at, nfgsm, trades, mart, gat, iat, fat, lbgat, oat, afa or afs, each over
            usual values of its one knob; METHOD=V,V for other values, such as trades=1,3,6; or
            RECIPE:FIELD=V,V for any field of any recipe.
        options: Budget, data, and how.
    """
    from equipoise.frontier import FrontierSettings, parse_contender
    from equipoise.frontier import frontier as compare
    from equipoise.report.frontier import rich_frontier, verdict
    from equipoise.runtime.files import read_json
    from equipoise.runtime.progress import Terminal

    source = _source(options)
    contenders = [parse_contender(text, source) for text in methods]
    settings = FrontierSettings(
        budget=options.budget,
        seeds=tuple(range(options.seeds)),
        validation_images=options.validation_images,
        test_images=options.images,
        checks=options.self_checks,
        workers=options.workers,
    )
    try:
        with Terminal(console) as terminal:
            made = compare(
                contenders,
                options.out,
                settings,
                plan_only=options.dry_run,
                executor=_executor(options, terminal),
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


def _source(options: FrontierFlags) -> Any:
    from equipoise.recipes.datasets import named_source

    given = options.dataset or options.data
    return named_source(options.dataset, options.data) if given else None


def _executor(options: FrontierFlags, terminal: Any) -> Any:
    from equipoise.execution.ray_cluster import RayExecutor

    if options.executor == "local":
        return None
    return RayExecutor(address=options.ray_address, reporter=terminal.named)
