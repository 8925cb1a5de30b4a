"""Where stages run: in this process, in a pool of processes, or on a Ray cluster."""

__all__: list[str] = []
