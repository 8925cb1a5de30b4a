"""Evaluation records: schema, files, statistics. Never imports torch."""

__all__: list[str] = []
