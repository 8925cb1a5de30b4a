"""Permission to run code that files name.

A model folder can name a function that builds its network, a recipe one that makes its objective,
suite or data, and a ``torch.export`` file can itself hold code. None of them is imported or read
unless the caller trusts it.
"""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, get_args

from equipoise.runtime.errors import InvalidInput, RunError

Trusted = str | Callable[..., Any]
"""Code that may run: a module, ``module:function``, a function, or the path of an exported file."""
_trusted: ContextVar[tuple[Trusted, ...]] = ContextVar("trusted", default=())


@contextmanager
def trusting(*code: Trusted) -> Iterator[None]:
    """Allow code to be imported and called inside a ``with`` block.

    Args:
        code: The name of a module allows every function that it or its submodules define;
            ``"module:function"`` allows that function; a function allows itself, under its own
            name; the path of a ``torch.export`` file allows that file.

    Returns:
        A context manager.

    Example:
        >>> with trusting("json"):
        ...     import_trusted_function("json:dumps")([1])
        '[1]'
        >>> import_trusted_function("json:dumps")
        Traceback (most recent call last):
        equipoise.runtime.errors.RunError: json:dumps is code in the module json, which is not ...
    """
    before = _trusted.set((*_trusted.get(), *code))
    try:
        yield
    finally:
        _trusted.reset(before)


def trusted_names() -> tuple[str, ...]:
    """Return what is currently trusted, in a form that ``trusting`` accepts in another process."""
    return tuple(
        code if isinstance(code, str) else f"{code.__module__}:{code.__qualname__}"
        for code in _trusted.get()
    )


def check_file(path: Path) -> None:
    """Reject a file that can hold code, unless its own path is trusted.

    Raises:
        RunError: If it is not trusted.
    """
    files = (Path(code) for code in _trusted.get() if isinstance(code, str))
    if not any(file.resolve() == path.resolve() for file in files):
        raise RunError(
            f"{path} is a file of torch.export, which can run code when it is read, so it was not "
            f"read. If you trust its author, pass --trust {path} on the command line or "
            f'trust=("{path}",) in Python. ONNX files and model folders hold no code.'
        )


def names_function(text: Any) -> bool:
    """Return whether a text, or a path, is written ``module:function``.

    Example:
        >>> [names_function(text) for text in ("my_package.data:reader", "digits", "hf://me/model")]
        [True, False, False]
    """
    written = str(text) if isinstance(text, str | Path) else ""
    return re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", written) is not None


def call_trusted_function(
    name: str, arguments: Mapping[str, Any], offered: Mapping[str, Any] | None = None
) -> Any:
    """Import a function if it is trusted, and call it.

    Args:
        name: ``module:function``.
        arguments: Its keyword arguments.
        offered: Further arguments; it gets those that are named like one of its parameters.

    Returns:
        What it returns.

    Raises:
        RunError: If the function is not trusted or does not exist.
        ValueError: If it does not take these arguments.

    Example:
        >>> with trusting("json"):
        ...     call_trusted_function("json:dumps", {"obj": [1]}, {"obj": 2, "speed": 3})
        '[1]'
    """
    function = import_trusted_function(name)
    given = matching_arguments(name, offered or {}) | {**arguments}
    try:
        inspect.signature(function).bind(**given)
    except TypeError as error:
        raise InvalidInput(
            f"{name} cannot be called with the arguments {dict(arguments)} ({error})."
        ) from error
    return function(**given)


def matching_arguments(name: str, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the offered arguments that are named like a parameter of a trusted function.

    Keys of an ``Unpack[TypedDict]`` count as parameters.

    Raises:
        RunError: If the function is not trusted or does not exist.
    """
    parameters = inspect.signature(import_trusted_function(name)).parameters
    unpacked = [kind for p in parameters.values() for kind in get_args(p.annotation)]
    names = {*parameters}.union(*(getattr(kind, "__annotations__", ()) for kind in unpacked))
    return {key: value for key, value in offered.items() if key in names}


def import_trusted_function(name: str) -> Callable[..., Any]:
    """Import a function if it is trusted; otherwise import nothing.

    Args:
        name: ``module:function``; modules in the current folder are found too.

    Returns:
        The function. If a function of that name was itself given to ``trusting``, it is that one.

    Raises:
        RunError: If the function is not trusted or does not exist.
    """
    module, _, function = name.partition(":")
    if not module or not function.isidentifier():
        raise RunError(f"a function is written module:function, got {name!r}.")
    for code in _trusted.get():
        if callable(code) and getattr(code, "__name__", None) == function:
            return code
    if name not in _trusted.get():
        _check(module, name)
    imported = _import(module, function, name)
    if name not in _trusted.get():  # a trusted module may have imported it from another
        _check(getattr(imported, "__module__", None) or "", name)
    return imported


def _check(module: str, name: str) -> None:
    """Reject code of a module that is not trusted."""
    modules = (code for code in _trusted.get() if isinstance(code, str))
    if not any(module == trusted or module.startswith(f"{trusted}.") for trusted in modules):
        top = module.partition(".")[0]
        raise RunError(
            f"{name} is code in the module {module or 'None'}, which is not trusted, so it "
            f"was not run. If you trust it, pass --trust {top} on the command line, "
            f'trust=("{top}",) in Python, or the function itself.'
        )


def _import(module: str, function: str, name: str) -> Callable[..., Any]:
    current = os.getcwd()
    sys.path.insert(0, current)
    try:
        imported: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise RunError(
            f"{name} cannot be imported ({error}); name an importable module and a function in it, "
            "such as my_models:make_network."
        ) from error
    finally:
        sys.path.remove(current)
        if current not in sys.path:
            sys.path.append(current)  # so that worker processes find the module too
    if not callable(imported):
        raise RunError(f"{name} must be a function, got {type(imported).__name__}.")
    return imported
