"""What each command does, as Python functions: train, evaluate, demo, dry run, model cards.

Import them from their modules; ``equipoise.train`` and ``equipoise.evaluate`` are the shortest way
to the two that users need most.
"""

__all__: list[str] = []
