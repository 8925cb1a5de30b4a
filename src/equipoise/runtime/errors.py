"""Errors that the user caused and can fix; their base class distinguishes them from bugs."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Base of all errors whose message is written for the user.

    The message names the thing, the rule, the value and the remedy. The command line prints it and
    exits with status 2; any other exception is a bug, and its traceback is shown.
    """


class InvalidInput(UserError, ValueError):
    """A value that breaks a rule; to Python code a ``ValueError`` like any other.

    Example:
        >>> raise InvalidInput("epsilon must be 0 or more, got -1.")
        Traceback (most recent call last):
        ...
        equipoise.runtime.errors.InvalidInput: epsilon must be 0 or more, got -1.
    """


class RunError(UserError, RuntimeError):
    """A run folder or file that cannot be used."""


class TrainingError(RunError):
    """Training that cannot continue; the message says why and what to change."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """End a sentence about an unknown word with the nearest known one, if any is near.

    Example:
        >>> did_you_mean("trian", ["train", "list"]), did_you_mean("x", ["train"])
        ('; did you mean train?', '.')
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else "."
