"""What a JSON file reveals: absolute paths to remove, code that it names."""

from pathlib import Path
from typing import Any


def functions_named(config: Any) -> list[str]:
    """Every ``module:function`` that a model's configuration needs."""
    if isinstance(config, list):
        return [name for each in config for name in functions_named(each)]
    if not isinstance(config, dict):
        return []
    if config.get("kind") == "imported":
        return [str(config.get("function"))]
    return functions_named(list(config.values()))


def without_folders(content: Any) -> Any:
    """The same JSON with every absolute path cut to its last part, for a file that leaves home."""
    if isinstance(content, dict):
        return {key: without_folders(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_folders(value) for value in content]
    if isinstance(content, str) and Path(content).is_absolute():
        return Path(content).name
    return content
