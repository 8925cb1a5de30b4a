"""Put a network into the mode in which it is attacked."""

__all__: list[str] = []
