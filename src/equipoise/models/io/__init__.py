"""Model folders, the Hugging Face Hub, and external networks."""

__all__: list[str] = []
