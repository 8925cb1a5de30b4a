"""Images decoded once into a file, from which batches are read; small sets are then read whole."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy
import torch
from numpy.lib import format as npy

from equipoise.data.dataset import DataError
from equipoise.data.decode import decode
from equipoise.data.memory_mapped import MappedImages, open_map
from equipoise.runtime.files import (
    PART,
    STALE_SECONDS,
    clear_temporaries,
    make_readable,
    read_json,
    write_json,
)

WHOLE = 2**30
"""Decoded images of a set up to this size, 1 GiB, live in memory or on the device; those of a
larger one stay in the file."""
VERSION = 2
"""Changes when the same files would be decoded otherwise."""
_BLOCK = 512
"""Images that are decoded at once, at most; bounds the memory."""


def cache_folder() -> Path:
    """Where decoded images are kept.

    Returns:
        ``EQUIPOISE_CACHE`` if that is set, or ``~/.cache/equipoise``. Its files may be deleted.
    """
    return Path(os.environ.get("EQUIPOISE_CACHE") or Path.home() / ".cache" / "equipoise")


def decode_once(
    names: Sequence[str],
    read: Callable[[int], bytes],
    *,
    key: str,
    size: int | None,
    grey: bool,
    where: Path | str,
) -> tuple[MappedImages, dict[int, str]]:
    """Decode images into a file of the cache, or find them there.

    Args:
        names: One an image, for messages.
        read: Gives the content of the image of a number, or raises ``DataError``.
        key: Changes whenever a content does.
        size: As of ``decode``; without it all images must have one size.
        grey: As of ``decode``.
        where: For messages: what the images belong to.

    Returns:
        The images, and why each broken one is broken, by number; those are black.

    Raises:
        DataError: If a file cannot be read, no image can be decoded, two differ in size, or the
            cache cannot be written.
    """
    settings = json.dumps([VERSION, key, len(names), size, grey])
    path = cache_folder() / f"{hashlib.sha256(settings.encode()).hexdigest()[:32]}.npy"
    if not _whole(path, len(names)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            clear_temporaries(path.parent, older=STALE_SECONDS)
            _write(path, names, read, size, grey, where)
        except OSError as error:
            raise DataError(
                f"decoded images cannot be kept in {path.parent} ({error.strerror or error}); make "
                "room, or set EQUIPOISE_CACHE to another folder."
            ) from error
    broken = read_json(path.with_suffix(".json"))["broken"]
    mapped = MappedImages(path=path, rows=torch.arange(len(names)))
    return mapped, {int(number): reason for number, reason in broken.items()}


def in_memory(images: MappedImages) -> Any:
    """Images as a tensor, if all of them take no more than ``WHOLE`` bytes."""
    return images[slice(None)] if images.nbytes <= WHOLE else images


def _whole(path: Path, count: int) -> bool:
    """Whether an earlier run left the file; the rename at its end vouches for its content."""
    try:
        return path.with_suffix(".json").exists() and len(open_map(path)) == count
    except (OSError, ValueError, EOFError):
        return False


def _write(
    path: Path,
    names: Sequence[str],
    read: Callable[[int], bytes],
    size: int | None,
    grey: bool,
    where: Path | str,
) -> None:
    def attempt(number: int) -> Any:
        content = read(number)  # what cannot be read now is not broken for ever
        try:
            return decode(content, size=size, grey=grey)[0]
        except DataError as error:
            return str(error)

    broken: dict[int, str] = {}
    first = None  # the first good image: all others have its shape
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
    try:
        # Pillow lets other threads run while it decodes, so threads are enough.
        with os.fdopen(handle, "wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(names), _BLOCK):
                block = range(start, min(start + _BLOCK, len(names)))
                for number, found in zip(block, pool.map(attempt, block), strict=True):
                    if isinstance(found, str):
                        broken[number] = found
                    elif first is None:
                        first = number, found.shape
                        _header(file, (len(names), *found.shape))
                        file.write(bytes(number * found.size))  # all before it are broken
                    elif found.shape != first[1]:
                        raise DataError(_other_size(where, names, first, number, found.shape))
                    if first is not None:
                        black = isinstance(found, str)
                        file.write(bytes(int(numpy.prod(first[1]))) if black else found.tobytes())
            file.flush()
            os.fsync(file.fileno())
        if first is None:
            raise DataError(f"{where}: no image can be read. {names[0]}: {broken[0]}.")
        make_readable(temporary)
        write_json(path.with_suffix(".json"), {"broken": broken})
        os.replace(temporary, path)
        open_map.cache_clear()
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    content = {"descr": "|u1", "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, content)


def _other_size(
    where: Path | str,
    names: Sequence[str],
    first: tuple[int, tuple[int, ...]],
    number: int,
    shape: tuple[int, ...],
) -> str:
    sizes = " and ".join(
        f"{names[n]} {height}x{width}" for n, (_, height, width) in (first, (number, shape))
    )
    return (
        f"{where}: images differ in size: {sizes} (height x width). Give one size to which all are "
        "brought, such as --dataset.size 32."
    )
