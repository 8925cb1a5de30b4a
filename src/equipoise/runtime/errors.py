"""Errors whose messages are written for the user."""


class RunError(RuntimeError):
    """A run folder or file cannot be used; the message names it and the remedy."""


class TrainingError(RunError):
    """Training cannot continue; the message says why and what to change."""
