"""Cache of decoded images: one file per data set, read as a whole or batch by batch."""

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

MAX_BYTES_IN_MEMORY = 2**30
"""Decoded images up to this size, 1 GiB, are kept in memory or on the device; larger data sets stay
in the file."""
VERSION = 2
"""To be increased whenever the same files would be decoded differently."""
_BLOCK_SIZE = 512
"""Number of images that are decoded at once; bounds the memory."""


def cache_folder() -> Path:
    """Folder of decoded images.

    Returns:
        ``EQUIPOISE_CACHE`` if that is set, otherwise ``~/.cache/equipoise``. Its files may be
        deleted at any time.
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
    """Decode images into a file of the cache, unless it exists.

    Args:
        names: Name of each image, for messages.
        read: Returns the content of an image by its index, or raises ``DataError``.
        key: Hash of the contents, or of what changes with them.
        size: Side of the images in pixels, see ``decode``; ``None`` if all have the same size.
        grey: Convert to one channel, see ``decode``.
        where: Name of the data set, for messages.

    Returns:
        The images, and the reason for each broken one, by index. Broken images are black.

    Raises:
        DataError: If a file cannot be read, no image can be decoded, two differ in size, or the
            cache cannot be written.
    """
    settings = json.dumps([VERSION, key, len(names), size, grey])
    path = cache_folder() / f"{hashlib.sha256(settings.encode()).hexdigest()[:32]}.npy"
    if not _is_complete(path, len(names)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            clear_temporaries(path.parent, older=STALE_SECONDS)
            _write(path, names, read, size, grey, where)
        except OSError as error:
            raise DataError(
                f"decoded images cannot be written to {path.parent} ({error.strerror or error}); "
                "free some space, or set EQUIPOISE_CACHE to another folder."
            ) from error
    broken = read_json(path.with_suffix(".json"))["broken"]
    mapped = MappedImages(path=path, rows=torch.arange(len(names)))
    return mapped, {int(index): reason for index, reason in broken.items()}


def load_if_small(images: MappedImages) -> Any:
    """Read images into a tensor, unless they take more than ``MAX_BYTES_IN_MEMORY``."""
    return images[slice(None)] if images.nbytes <= MAX_BYTES_IN_MEMORY else images


def _is_complete(path: Path, count: int) -> bool:
    """Whether an earlier run wrote the file; it is renamed only when it is complete."""
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
    def try_decode(index: int) -> Any:
        content = read(index)  # outside the try: a file that cannot be read is not a broken image
        try:
            return decode(content, size=size, grey=grey)[0]
        except DataError as error:
            return str(error)

    broken: dict[int, str] = {}
    first = None  # index and shape of the first good image; all others must have its shape
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
    try:
        # Pillow releases the interpreter lock while it decodes, so threads are enough.
        with os.fdopen(handle, "wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(names), _BLOCK_SIZE):
                block = range(start, min(start + _BLOCK_SIZE, len(names)))
                for index, image in zip(block, pool.map(try_decode, block), strict=True):
                    if isinstance(image, str):
                        broken[index] = image
                    elif first is None:
                        first = index, image.shape
                        _write_header(file, (len(names), *image.shape))
                        file.write(bytes(index * image.size))  # all before it are broken
                    elif image.shape != first[1]:
                        raise DataError(_size_message(where, names, first, (index, image.shape)))
                    if first is not None:
                        black = isinstance(image, str)
                        file.write(bytes(int(numpy.prod(first[1]))) if black else image.tobytes())
            file.flush()
            os.fsync(file.fileno())
        if first is None:
            raise DataError(f"{where}: no image can be decoded. {names[0]}: {broken[0]}.")
        make_readable(temporary)
        write_json(path.with_suffix(".json"), {"broken": broken})
        os.replace(temporary, path)
        open_map.cache_clear()
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    content = {"descr": "|u1", "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, content)


def _size_message(
    where: Path | str, names: Sequence[str], *images: tuple[int, tuple[int, ...]]
) -> str:
    sizes = " and ".join(f"{names[index]} {height}x{width}" for index, (_, height, width) in images)
    return (
        f"{where}: images must have the same size, got {sizes} (height x width). Give the size "
        "that all are scaled to, such as --dataset.size 32."
    )
