"""Make the tables and figures of the papers again."""

from equipoise.reproduce.run import Made, reproduce

__all__ = [
    "Made",
    "reproduce",
]
