"""Command line: one file per group of commands. Imports torch only when a command needs it."""

__all__: list[str] = []
