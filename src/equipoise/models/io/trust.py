"""Whose code may run: a function that a file names is imported, and a file that is code is read,
only where the caller trusts it."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from equipoise.runtime.errors import RunError

Trusted = str | Callable[..., Any]
_trusted: ContextVar[tuple[Trusted, ...]] = ContextVar("trusted", default=())


@contextmanager
def trusting(*code: Trusted) -> Iterator[None]:
    """Allow code to be imported and called inside a ``with`` block.

    Args:
        code: A module's name allows every function that it or its submodules define;
            ``"module:function"`` allows that one; a function allows itself, under its own name; the
            path of a file of ``torch.export`` allows that file.

    Returns:
        A context manager.
    """
    before = _trusted.set((*_trusted.get(), *code))
    try:
        yield
    finally:
        _trusted.reset(before)


def trusted_names() -> tuple[str, ...]:
    """What is trusted here, as ``trusting`` takes it in another process: a function by its name."""
    return tuple(
        code if isinstance(code, str) else f"{code.__module__}:{code.__qualname__}"
        for code in _trusted.get()
    )


def check_file(path: Path) -> None:
    """Refuse a file that is code, unless it is trusted by its own path.

    Raises:
        RunError: If it is not.
    """
    files = (Path(code) for code in _trusted.get() if isinstance(code, str))
    if not any(file.resolve() == path.resolve() for file in files):
        raise RunError(
            f"{path} is a file of torch.export, which torch reads in ways that can run code, so it "
            f"was not read. If you trust who made it, say so: --trust {path} on the command line, "
            f'trust=("{path}",) in Python. ONNX files and model folders hold no code.'
        )


def import_trusted_function(name: str) -> Callable[..., Any]:
    """Import a function, if that is allowed here. Nothing is imported otherwise.

    Args:
        name: ``module:function``; modules in the current folder are found too.

    Returns:
        The function, or the one of its name that was itself given to ``trusting``.

    Raises:
        RunError: If it is not trusted, or there is no such function.
    """
    module, _, function = name.partition(":")
    if not module or not function.isidentifier():
        raise RunError(f"a network's function is written module:function, got {name!r}.")
    for code in _trusted.get():
        if callable(code) and getattr(code, "__name__", None) == function:
            return code
    if name not in _trusted.get():
        _check(module, name)
    found = _imported(module, function, name)
    if name not in _trusted.get():  # what a trusted module has only imported is not its own
        _check(getattr(found, "__module__", None) or "", name)
    return found


def _check(module: str, name: str) -> None:
    modules = (code for code in _trusted.get() if isinstance(code, str))
    if not any(module == each or module.startswith(f"{each}.") for each in modules):
        top = module.partition(".")[0]
        raise RunError(
            f"{name} is code of the module {module or 'None'}, which is not trusted here, so it "
            f"was not run. If you trust it, say so: --trust {top} on the command line, "
            f'trust=("{top}",) in Python, or give the function itself.'
        )


def _imported(module: str, function: str, name: str) -> Callable[..., Any]:
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise RunError(
            f"{name} gives no network ({error}); name an importable module and a function in it, "
            "as in my_models:make_network."
        ) from error
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)  # so that worker processes find the module too
    if not callable(found):
        raise RunError(f"{name} must be a function, got {type(found).__name__}.")
    return found
