"""Hash of the source code that a network comes from."""

import ast
import functools
import hashlib
import importlib.machinery
import inspect
import site
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from torch import nn

OWN_PACKAGES = ("torch", "equipoise")
"""Packages whose modules are identified by ``repr``, weights and version instead."""


def source_hash(model: nn.Module, modules: Sequence[str] = ()) -> str | None:
    """Return a hash of the source files behind a network's code.

    These are the files of the classes of all its submodules, except for torch and Equipoise, and
    of ``modules``. Every module that one of them imports is added, too, unless it belongs to the
    standard library or is installed in ``site-packages``.

    Args:
        model: The network.
        modules: Names of further modules, such as the one whose function built the network.

    Returns:
        64 hexadecimal digits, or ``None`` if no such file exists.

    Example:
        >>> from torch import nn
        >>> source_hash(nn.Linear(2, 2)) is None, len(source_hash(nn.Linear(2, 2), ["json"]))
        (True, 64)
    """
    classes = {type(module) for module in model.modules()}
    names = {cls.__module__ for cls in classes} | set(modules)
    outside = sorted(name for name in names if name.partition(".")[0] not in OWN_PACKAGES)
    sources: dict[str, bytes] = {}
    for name in outside:
        _add_with_imports(name, sources)
    for cls in sorted(classes, key=lambda cls: cls.__qualname__):
        if cls.__module__ in outside and cls.__module__ not in sources:
            sources[f"{cls.__module__}.{cls.__qualname__}"] = _source_of_class(cls)
    if not any(sources.values()):
        return None
    digest = hashlib.sha256()
    for name, content in sorted(sources.items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()


def _add_with_imports(name: str, sources: dict[str, bytes]) -> None:
    """Add a module's source file, and those of the local modules that it imports."""
    waiting = [(name, sys.modules.get(name))]
    while waiting:
        name, module = waiting.pop()
        path = _file_of(module)
        if module is None or path is None or name in sources:
            continue
        try:
            sources[name] = path.read_bytes()
        except OSError:
            continue
        if _is_local(path):
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            for imported in _imported_names(sources[name], package):
                found = sys.modules.get(imported) or _beside(path, package, imported)
                place = _file_of(found)
                if place is not None and _is_local(place):
                    waiting.append((imported, found))


def _imported_names(source: bytes, package: str) -> Iterator[str]:
    """Yield the full names of all modules that a source file may import, in any scope."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            full = ".".join(part for part in (base, node.module) if part)
            yield from _with_parents(full)
            yield from (f"{full}.{alias.name}" for alias in node.names)


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[: count + 1]) for count in range(len(parts)))


def _beside(path: Path, package: str, name: str) -> ModuleType | None:
    """Find a module that is not imported yet, in the folder that holds its importer's package."""
    root = path.parents[len(package.split(".")) if package else 0]
    place = root.joinpath(*name.split("."))
    for file in (place.with_suffix(".py"), place / "__init__.py"):
        if name and file.is_file():
            module = ModuleType(name)
            module.__file__ = str(file)
            return module
    return None


def _file_of(module: ModuleType | None) -> Path | None:
    file = getattr(module, "__file__", None)
    suffixes = (*importlib.machinery.SOURCE_SUFFIXES, *importlib.machinery.EXTENSION_SUFFIXES)
    return Path(file) if file is not None and file.endswith(tuple(suffixes)) else None


def _is_local(path: Path) -> bool:
    """Return whether a file is neither installed nor Equipoise's own."""
    full = path.resolve()
    return not any(full.is_relative_to(place) for place in _installed())


@functools.cache
def _installed() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    places = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    places += [*site.getsitepackages(), site.getusersitepackages(), str(Path(__file__).parents[1])]
    return tuple({Path(place).resolve() for place in places})


def _source_of_class(cls: type) -> bytes:
    """Return the source of a class without a file, such as one from a notebook."""
    try:
        return inspect.getsource(cls).encode()
    except (OSError, TypeError):
        return b""
