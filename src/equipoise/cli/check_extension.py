"""The command ``equipoise check-extension``."""

import sys
from typing import Annotated

import tyro

from equipoise.cli.options import Trust, optional, print_line
from equipoise.runtime.json_argument import JsonObject


def check_extension(
    function: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODULE:FUNCTION")],
    *,
    arguments: Annotated[JsonObject | None, optional("JSON")] = None,
    trust: Trust = (),
) -> None:
    """Check an objective, attack, suite, data reader, recipe or network of your own.
    Prints one line for each check. Exit status 1: a check failed.

    Args:
        function: The function that makes it. Its module is imported and its code runs.
        arguments: Arguments of the function, as a JSON object.
        trust: Other modules whose code may run because it names them.
    """
    from equipoise.api.check_extension import check_extension

    kind, outcomes = check_extension(function, arguments, trust=trust)
    failed = [outcome for outcome in outcomes if outcome.reason is not None]
    for outcome in outcomes:
        reason = "" if outcome.reason is None else f": {outcome.reason}"
        print_line(f"{'FAIL' if reason else 'pass'} {outcome.check}{reason}")
    print_line(f"{function}, {kind}: {len(outcomes) - len(failed)} passed, {len(failed)} failed")
    if failed:
        sys.exit(1)
