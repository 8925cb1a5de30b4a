"""Compare settings that are stored as JSON."""

from typing import Any


def differing_fields(before: Any, after: Any, path: str = "") -> list[str]:
    """Paths of the fields in which two JSON values differ.

    Args:
        before: One value.
        after: The other.
        path: What each path starts with.

    Example:
        >>> differing_fields({"loop": {"seed": 0}, "name": "a"}, {"loop": {"seed": 1}, "name": "a"})
        ['loop.seed']
    """
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            changed
            for name in sorted(before.keys() | after.keys())
            for changed in differing_fields(
                before.get(name), after.get(name), f"{path}.{name}".strip(".")
            )
        ]
    return [] if before == after else [path]
