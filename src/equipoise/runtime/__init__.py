"""Files, environment, seeds, signals and memory. Never imports torch."""

__all__: list[str] = []
