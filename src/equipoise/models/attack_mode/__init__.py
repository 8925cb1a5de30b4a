"""Attack mode: the state of a network under attack, and faster passes through it."""

__all__: list[str] = []
