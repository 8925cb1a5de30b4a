"""Reproduce the tables and figures of the papers."""

from equipoise.reproduce.run import Reproduction, reproduce

__all__ = [
    "Reproduction",
    "reproduce",
]
