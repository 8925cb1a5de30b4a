"""The network of AFA: branches, fused batch norm, weight generator."""

__all__: list[str] = []
