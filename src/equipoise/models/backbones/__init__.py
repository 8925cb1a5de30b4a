"""Backbones: wide ResNets, ResNets, PreActResNets and published weights for them."""

__all__: list[str] = []
