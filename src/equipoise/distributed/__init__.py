"""Data-parallel training: ranks, shared random numbers, synchronised batch norm."""

__all__: list[str] = []
