"""Find what a configuration reveals: the functions that it names, and absolute paths."""

from pathlib import Path
from typing import Any


def functions_named(config: Any) -> list[str]:
    """List every ``module:function`` that a model configuration names.

    Args:
        config: JSON values.

    Returns:
        Names in the order of the configuration.

    Example:
        >>> functions_named({"members": [{"kind": "imported", "function": "my_models:make"}]})
        ['my_models:make']
    """
    if isinstance(config, list):
        return [name for value in config for name in functions_named(value)]
    if not isinstance(config, dict):
        return []
    if config.get("kind") == "imported":
        return [str(config.get("function"))]
    return functions_named(list(config.values()))


def without_folders(content: Any) -> Any:
    """Shorten every absolute path to its last part, for a file that is published.

    Args:
        content: JSON values.

    Returns:
        A copy.

    Example:
        >>> without_folders({"folder": "/home/me/cifar10", "limit": None})
        {'folder': 'cifar10', 'limit': None}
    """
    if isinstance(content, dict):
        return {key: without_folders(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_folders(value) for value in content]
    if isinstance(content, str) and Path(content).is_absolute():
        return Path(content).name
    return content
