"""The command ``equipoise train``. torch is imported only when it is needed."""

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro
from rich.console import Console

from equipoise.cli.deploy import export_and_print, export_form
from equipoise.cli.evaluate import evaluate_and_print
from equipoise.cli.options import Sources, console, stopped
from equipoise.runtime.signals import Interrupted


def train_recipe(name: str, arguments: list[str]) -> None:
    """Parse ``equipoise train NAME ...``, whose flags depend on the recipe, and run it.

    Args:
        name: A recipe, its file or folder, or ``afs``.
        arguments: What comes after it.
    """
    from equipoise.cli.progress import Terminal, quiet
    from equipoise.distributed.ranks import launched
    from equipoise.execution.ray_cluster import RayExecutor
    from equipoise.recipes import ImportedNetwork, Recipe
    from equipoise.runtime.errors import RunError
    from equipoise.workflows.datasets import named_source, with_folder
    from equipoise.workflows.dry_run import dry_run as measure_cost
    from equipoise.workflows.stacking import stacking
    from equipoise.workflows.train import find_recipe, train

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        """Train this recipe. Every field of it can be changed by its flag."""

        recipe: Annotated[Recipe, tyro.conf.arg(name="")]
        network: str | None = None
        """module:function that makes your own network, in place of the recipe's."""
        trust: tuple[str, ...] = ()
        """Modules whose code may be run because a recipe file or a saved model names it."""
        out: Path | None = None
        """Run folder; runs/<name> by default."""
        data: Path | None = None
        """Folder or file of the data set."""
        source: Annotated[Sources | None, tyro.conf.arg(name="dataset")] = None
        """Train on another data set than the recipe's; its fields become flags, too."""
        resume: bool = False
        """Go on where an earlier run in the same folder stopped."""
        devices: int = 1
        """Processes a machine that share each batch, one GPU or core each."""
        nodes: int = 1
        """Machines."""
        strategy: Literal["auto", "ddp"] = "auto"
        """How they share it; auto is ddp where there are several."""
        executor: Literal["local", "ray"] = "local"
        """Where stages run: here in order, or on a Ray cluster, independent ones at once."""
        ray_address: str | None = None
        """Of the cluster; by default RAY_ADDRESS, or one that is started on this machine."""
        ray_cpus: int = 1
        """Cores of each stage on the cluster."""
        ray_gpus: float = 0
        """GPUs of each stage on the cluster."""
        dry_run: bool = False
        """Train nothing: measure a few steps and print what the run would cost here."""
        evaluate: bool = False
        """Then attack the model as the recipe says, and print the table."""
        export: Path | None = None
        """Then write the model to FILE.onnx or FILE.pt2, its scores inside."""

    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--dataset", nargs="?")
    early.add_argument("--network")
    early.add_argument("--extractors", "--method.extractors", nargs="*", default=[])
    named, _ = early.parse_known_args(arguments)  # what decides which flags there are
    asked = name
    if name == "afs" and not named.extractors and {"-h", "--help"} & {*arguments}:
        name = "afs_digits"  # which has the same flags
    base = stacking(named.extractors) if name == "afs" else find_recipe(name)
    if named.dataset in get_args(Sources):  # tyro refuses others below
        base = replace(base, dataset=named_source(named.dataset))
    if named.network is not None:
        base = replace(base, network=ImportedNetwork(function=named.network))
    given = tyro.cli(
        Arguments,
        prog=f"equipoise train {asked}",
        default=Arguments(recipe=base),
        args=arguments,
        config=(tyro.conf.AvoidSubcommands,),
    )
    recipe: Recipe = given.recipe
    if given.data is not None:
        recipe = replace(recipe, dataset=with_folder(recipe.dataset, given.data))
    folder = given.out or Path("runs") / recipe.name
    if given.export is not None:
        export_form(given.export)  # a wrong ending is refused before hours of training
    written = [each for each in (named.network, *named.extractors) if each and ":" in each]
    trust = (*given.trust, *written)  # what is written on this very command line is allowed
    if given.dry_run:
        from equipoise.models.io.trust import trusting
        from equipoise.report import rich_costs

        with Terminal(console) as terminal, trusting(*trust):
            cost = measure_cost(recipe, reporter=terminal)
        console.print(rich_costs(cost))
        return
    again = f" --trust {' '.join(trust)}" if trust else ""
    then = " --evaluate" * given.evaluate
    then += f" --export {given.export}" if given.export is not None else ""
    began = time.monotonic()
    printed, is_first = console, True
    quiet()
    try:
        fabric = launched(
            recipe.loop.precision,
            recipe.loop.batch_size,
            devices=given.devices,
            nodes=given.nodes,
            strategy=given.strategy,
        )
        if not fabric.is_global_zero:
            printed, is_first = Console(quiet=True), False
        with Terminal(printed) as terminal:
            elsewhere = None
            if given.executor == "ray":
                elsewhere = RayExecutor(
                    address=given.ray_address,
                    cpus=given.ray_cpus,
                    gpus=given.ray_gpus,
                    reporter=lambda stage: terminal.of(""),
                )
            train(
                recipe,
                folder,
                resume=given.resume,
                trust=trust,
                reporter=terminal,
                fabric=fabric,
                elsewhere=elsewhere,
            )
    except (Interrupted, RunError) as error:
        if not is_first:  # the first process says it
            sys.exit(0)
        if not isinstance(error, Interrupted):
            raise
        stopped(f"equipoise train {folder} --out {folder} --resume{then}{again}")
    if not is_first:
        return
    console.print(f"model: {folder / 'model'}", highlight=False, soft_wrap=True)
    console.print(f"took: {time.monotonic() - began:.0f} s", highlight=False, soft_wrap=True)
    if given.evaluate:
        evaluate_and_print((str(folder),), trust=trust)
    else:
        console.print(f"next: equipoise evaluate {folder}{again}", highlight=False, soft_wrap=True)
    if given.export is not None:
        export_and_print(str(folder), given.export, trust=trust)
