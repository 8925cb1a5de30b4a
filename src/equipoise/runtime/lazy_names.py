"""Names of a package that are imported when they are first used."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return a package's ``__getattr__``, so that importing the package does not import torch.

    Args:
        package: Name of the package.
        modules: By module of the package, the names that it defines.

    Example:
        >>> from equipoise.runtime.lazy_names import lazy_names
        >>> get = lazy_names("equipoise.runtime", {"errors": ["UserError"]})
        >>> get("UserError").__module__
        'equipoise.runtime.errors'
    """
    module_of = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)

    return get
