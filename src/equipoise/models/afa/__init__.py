"""AFA's networks: branches, fused batch norms and the weight generator."""

__all__: list[str] = []
