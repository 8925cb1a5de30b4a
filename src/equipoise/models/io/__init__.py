"""Model folders, the Hugging Face Hub, and models from elsewhere."""

__all__: list[str] = []
