"""Command line: one file per group of commands. torch is imported only when needed."""

__all__: list[str] = []
