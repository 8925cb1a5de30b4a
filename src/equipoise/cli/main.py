"""The command line. torch is imported only when it is needed."""

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import tyro

from equipoise.cli.catalogue import list_recipes
from equipoise.cli.demo import demo
from equipoise.cli.deploy import card, export, predict
from equipoise.cli.evaluate import evaluate
from equipoise.cli.options import errors
from equipoise.cli.report import compare, report
from equipoise.cli.reproduce import reproduce
from equipoise.cli.train import train_recipe
from equipoise.runtime.signals import INTERRUPTED, REQUEUE, Terminated, end_on_sigterm


def train(
    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")],
) -> None:
    """Train a recipe. `equipoise train RECIPE --help` shows every field it lets you change.

    Args:
        recipe: A name of `equipoise list`, an earlier run's folder or recipe.json, or `afs` to
            stack saved models: `equipoise train afs --extractors runs/a runs/b`.
    """
    raise AssertionError("parsed by train_recipe")


COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "list": list_recipes,
    "train": train,
    "evaluate": evaluate,
    "report": report,
    "compare": compare,
    "export": export,
    "predict": predict,
    "card": card,
    "reproduce": reproduce,
}


def main(arguments: list[str] | None = None) -> None:
    """Parse and run; a mistake of the user's ends in one clear message and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with end_on_sigterm():
            _run(arguments)
    except KeyboardInterrupt as error:
        if arguments[:1] == ["evaluate"]:
            errors.print("stopped; what was found is kept: the same command goes on.")
        sys.exit(REQUEUE if isinstance(error, Terminated) else INTERRUPTED)
    except BrokenPipeError:  # who reads, such as head, has seen enough; nothing is left to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)  # as rich's console does
    except (ValueError, RuntimeError) as error:
        # Our own refusals are ValueErrors and RunErrors; anything else keeps its trace.
        if not _is_refusal(error):
            raise
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


def _run(arguments: list[str]) -> None:
    if arguments == ["--version"]:
        from equipoise.runtime.environment import version

        print(f"equipoise {version('equipoise')}")
    elif arguments[:1] == ["train"] and arguments[1:2] and not arguments[1].startswith("-"):
        train_recipe(arguments[1], arguments[2:])
    else:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="equipoise",
            description="Classifiers that stay accurate on clean images and under attack.",
            args=arguments,
        )


def _is_refusal(error: Exception) -> bool:
    from equipoise.runtime.errors import RunError

    if isinstance(error, RunError):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return isinstance(error, ValueError) and raised_in.split(".")[0] == "equipoise"
