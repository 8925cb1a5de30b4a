"""The command ``equipoise train``. Imports torch only when it runs."""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.console import Console

from equipoise.cli.deploy import export_and_print, export_form
from equipoise.cli.evaluate import evaluate_and_print
from equipoise.cli.options import console, exit_interrupted, print_line
from equipoise.cli.values import REGISTRY
from equipoise.runtime.run_folder import RunFolder
from equipoise.runtime.signals import Interrupted

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from equipoise.cli.train_options import Options
    from equipoise.recipes import Recipe
    from equipoise.runtime.reporter import Reporter


def train_recipe(name: str, arguments: list[str]) -> None:
    """Parse ``equipoise train NAME ...``, whose flags depend on the recipe, and run it.

    Args:
        name: A recipe, its file or folder, or ``afs``.
        arguments: The arguments after it.
    """
    command = parse(name, arguments)
    if command.options.export is not None:
        export_form(command.options.export)  # refuse a wrong suffix before hours of training
    if command.options.dry_run:
        _dry_run(command)
    elif _train(command):
        _after_training(command)


@dataclass(frozen=True)
class TrainCommand:
    """A parsed ``equipoise train`` command.

    Args:
        recipe: The recipe with all changes applied.
        options: The flags.
        folder: The run folder.
        trust: Code that may run: what ``--trust`` names and what the command line itself names.
    """

    recipe: "Recipe"
    options: "Options"
    folder: Path
    trust: tuple[str, ...]

    @property
    def trust_flag(self) -> str:
        """The flag that trusts the same code in a later command."""
        return f" --trust {' '.join(self.trust)}" if self.trust else ""

    def resume(self) -> str:
        """The command line that continues this run."""
        flags = " --evaluate" * self.options.evaluate
        if self.options.export is not None:
            flags += f" --export {self.options.export}"
        if self.options.cluster.threads is not None:
            flags += f" --threads {self.options.cluster.threads}"
        if self.options.log_to is not None:
            flags += f" --log-to {self.options.log_to}"
        return f"equipoise train {self.folder} --out {self.folder} --resume{flags}{self.trust_flag}"


def parse(name: str, arguments: list[str]) -> TrainCommand:
    """Parse the arguments of ``equipoise train NAME``. ``--help`` prints the flags and exits."""
    from equipoise.cli.train_options import (
        Options,
        describe,
        expand,
        print_common_help,
        short_flags,
    )
    from equipoise.data.formats import located
    from equipoise.models.io.external import split_weights
    from equipoise.runtime.trust import names_function

    prog = f"equipoise train {name}"
    early = _recipe_arguments(arguments)
    helps = {"-h", "--help", "--help-all"} & {*arguments}
    recipe = _base_recipe(name, early, for_help=bool(helps))
    flags = short_flags(recipe, extractors=bool(early.extractors))
    if "--help-all" in helps:
        arguments = ["--help"]
    elif helps:
        print_common_help(prog, recipe, flags)
    options = tyro.cli(
        Options,
        prog=prog,
        description=describe(recipe, flags),
        default=Options(recipe=recipe),
        args=expand(arguments, recipe, flags),
        config=(tyro.conf.AvoidSubcommands,),
        registry=REGISTRY,
    )
    recipe = options.recipe
    if options.data is not None and (early.dataset or not names_function(options.data)):
        recipe = replace(recipe, dataset=located(recipe.dataset, options.data))
    words = [split_weights(argument.rpartition("=")[2])[0] for argument in arguments]
    named_here = [word for word in words if names_function(word)]
    if names_function(name):
        named_here.append(name.partition(":")[0])  # the recipe's objective, suite and data, too
    return TrainCommand(
        recipe=recipe,
        options=options,
        folder=options.out or Path("runs") / recipe.name,
        trust=(*options.trust, *named_here),
    )


def _recipe_arguments(arguments: list[str]) -> argparse.Namespace:
    """The arguments that decide which flags there are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--dataset", nargs="?")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--network")
    parser.add_argument("--extractors", "--method.extractors", nargs="*", default=[])
    return parser.parse_known_args(arguments)[0]


def _base_recipe(name: str, early: argparse.Namespace, *, for_help: bool) -> "Recipe":
    """The recipe before its fields are changed by flags."""
    from equipoise.api.stacking import stacking
    from equipoise.api.train import find_recipe
    from equipoise.data import recognise
    from equipoise.models.io.external import split_weights
    from equipoise.recipes import ImportedNetwork
    from equipoise.recipes.datasets import named_source

    if name == "afs" and for_help and not early.extractors:
        name = "afs_digits"  # has the same flags, and needs no models
    recipe = stacking(early.extractors) if name == "afs" else find_recipe(name)
    if early.dataset is not None:
        recipe = replace(recipe, dataset=named_source(early.dataset))
    elif early.data is not None and not for_help:
        recipe = replace(recipe, dataset=recognise(early.data, like=recipe.dataset))
    if early.network is not None:
        function, weights = split_weights(early.network)
        recipe = replace(recipe, network=ImportedNetwork(function=function, weights=weights))
    return recipe


def _dry_run(command: TrainCommand) -> None:
    from equipoise.api.dry_run import dry_run
    from equipoise.report import rich_costs
    from equipoise.runtime.progress import Terminal
    from equipoise.runtime.trust import trusting

    with Terminal(console) as terminal, trusting(*command.trust):
        cost = dry_run(command.recipe, reporter=terminal)
    console.print(rich_costs(cost))


def _train(command: TrainCommand) -> bool:
    """Train, and return whether this process is the first of those that share the work."""
    from equipoise.api.train import train
    from equipoise.runtime.errors import RunError
    from equipoise.runtime.progress import Terminal, quiet

    cluster = command.options.cluster
    if cluster.threads is not None or cluster.executor == "ray":
        import torch

        torch.set_num_threads(cluster.threads or 1)  # the number that environment.json records
    began, is_first = time.monotonic(), True
    quiet()
    try:
        fabric = _launch(command)
        is_first = fabric.is_global_zero
        with (
            Terminal(console if is_first else Console(quiet=True)) as terminal,
            _logged(command, is_first) as logged,
        ):
            train(
                command.recipe,
                command.folder,
                resume=command.options.resume,
                trust=command.trust,
                reporter=logged(terminal),
                fabric=fabric,
                elsewhere=_executor(command, lambda: logged(terminal.named(""))),
            )
    except (Interrupted, RunError) as error:
        if not is_first:  # the first process reports it
            sys.exit(0)
        if isinstance(error, Interrupted):
            exit_interrupted(command.resume())
        raise
    if is_first:
        print_line(f"model: {RunFolder(command.folder).model}")
        print_line(f"took: {time.monotonic() - began:.0f} s")
    return is_first


def _launch(command: TrainCommand) -> "Fabric":
    from equipoise.distributed.ranks import launched

    loop, options = command.recipe.loop, command.options
    return launched(
        loop.precision,
        loop.batch_size,
        devices=options.devices,
        nodes=options.cluster.nodes,
        strategy=options.cluster.strategy,
    )


def _logged(
    command: TrainCommand, is_first: bool
) -> "contextlib.AbstractContextManager[Callable[[Reporter], Reporter]]":
    """Context manager with a function that lets a reporter's epochs be logged, if asked for."""
    from equipoise.api.experiment_log import experiment_log

    if command.options.log_to is None or not is_first:
        return contextlib.nullcontext(lambda reporter: reporter)
    return experiment_log(command.options.log_to, command.folder, command.recipe.name)


def _executor(command: TrainCommand, reporter: "Callable[[], Reporter]") -> Any:
    from equipoise.execution.ray_cluster import RayExecutor

    cluster = command.options.cluster
    if cluster.executor == "local":
        return None
    return RayExecutor(
        address=cluster.ray_address,
        cpus=cluster.threads or 1,
        gpus=cluster.ray_gpus,
        reporter=lambda stage: reporter(),
    )


def _start_of(command: TrainCommand) -> dict[str, Any] | None:
    """Arguments that evaluate the trained weights from which a run started, if it did."""
    from equipoise.recipes import ImportedNetwork
    from equipoise.runtime.trust import trusting

    recipe, network = command.recipe, command.recipe.network
    if not isinstance(network, ImportedNetwork) or network.weights is None or network.new_head:
        return None
    with trusting(*command.trust):
        dataset = recipe.dataset.load()
        start = network.maker(dataset)().eval()
    return {
        "model": start,
        "dataset": dataset,
        "evaluation": recipe.evaluation,
        "name": f"{recipe.name}_start",
        "folder": command.folder / "start",
        "trust": command.trust,
    }


def _after_training(command: TrainCommand) -> None:
    if command.options.evaluate:
        evaluate_and_print((str(command.folder),), trust=command.trust, before=_start_of(command))
    else:
        print_line(f"next: equipoise evaluate {command.folder}{command.trust_flag}")
    if command.options.export is not None:
        export_and_print(str(command.folder), command.options.export, trust=command.trust)
