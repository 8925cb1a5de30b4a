"""Errors whose message is written for the user: it names the file and the remedy."""


class RunError(RuntimeError):
    """A run folder or file that cannot be used; the message names it and the remedy."""


class TrainingError(RunError):
    """Training that cannot go on; the message says why and what to change."""
