"""The command line. Imports torch only when a command needs it."""

import os
import re
import sys
from collections.abc import Callable
from typing import Annotated, Any

import tyro

from equipoise.cli.attack import AttackFlags, attack
from equipoise.cli.catalogue import list_recipes
from equipoise.cli.check_extension import check_extension
from equipoise.cli.demo import demo
from equipoise.cli.deploy import card, export, predict
from equipoise.cli.evaluate import EvaluateFlags, evaluate
from equipoise.cli.frontier import FrontierFlags, frontier
from equipoise.cli.options import errors
from equipoise.cli.report import compare, report
from equipoise.cli.reproduce import reproduce
from equipoise.cli.train import train_recipe
from equipoise.cli.values import REGISTRY
from equipoise.runtime.errors import InvalidInput, UserError, did_you_mean
from equipoise.runtime.signals import INTERRUPTED, REQUEUE, Terminated, end_on_sigterm


def train(
    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")],
) -> None:
    """Train a recipe. `equipoise train RECIPE --help` shows its flags.

    Args:
        recipe: A name from `equipoise list`, module:function for your own, the folder or
            recipe.json of an earlier run, or `afs` to stack saved models: `equipoise train afs
            --extractors runs/a runs/b`.
    """
    # Only this help is used: ``_run`` hands a recipe's flags to ``train_recipe``.
    raise AssertionError("parsed by train_recipe")


COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "list": list_recipes,
    "train": train,
    "evaluate": evaluate,
    "attack": attack,
    "report": report,
    "compare": compare,
    "export": export,
    "predict": predict,
    "card": card,
    "reproduce": reproduce,
    "frontier": frontier,
    "check-extension": check_extension,
}
for _command in (*COMMANDS.values(), EvaluateFlags, AttackFlags, FrontierFlags):
    # tyro wraps help text to the terminal, but keeps line breaks inside a function's "Args:".
    _command.__doc__ = re.sub(r"(?<=\S)\n {12}(?=\S)", " ", _command.__doc__ or "")


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments and run the command.

    An error that the user caused ends in one message and exit status 2; a bug shows its traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with end_on_sigterm():
            _run(arguments)
    except KeyboardInterrupt as error:
        if arguments[:1] in (["evaluate"], ["attack"]):
            errors.print("stopped; results so far are saved. Run the same command to continue.")
        sys.exit(REQUEUE if isinstance(error, Terminated) else INTERRUPTED)
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)  # as rich's console does
    except UserError as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


def _run(arguments: list[str]) -> None:
    if arguments == ["--version"]:
        from equipoise.runtime.environment import version

        print(f"equipoise {version('equipoise')}")
    elif arguments[:1] == ["train"] and arguments[1:2] and not arguments[1].startswith("-"):
        train_recipe(arguments[1], arguments[2:])
    elif arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        raise InvalidInput(
            f"there is no command {arguments[0]!r}{did_you_mean(arguments[0], COMMANDS)} The "
            f"commands are {', '.join(COMMANDS)}."
        )
    else:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="equipoise",
            description="Train, attack and evaluate robust image classifiers. "
            "--version prints the version.",
            args=arguments,
            registry=REGISTRY,
        )
