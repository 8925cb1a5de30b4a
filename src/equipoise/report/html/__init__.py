"""One self-contained HTML page from records."""

__all__: list[str] = []
