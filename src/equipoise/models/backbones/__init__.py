"""Wide ResNets, ResNets and published weights."""

__all__: list[str] = []
