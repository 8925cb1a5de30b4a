"""What one command does, as Python functions: train, evaluate, demo, model cards."""

__all__: list[str] = []
