"""Arrays of a MATLAB 5 file, for which SciPy's reader is no judge: damaged content crashes it."""

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from equipoise.data.archives import LARGEST
from equipoise.data.dataset import DataError

_HEADER, _MATRIX, _COMPRESSED = 128, 14, 15
_PREFIX = 4096
"""Bytes of a variable in which its type, shape and name must lie."""
_CLASSES = {
    1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse", 6: "double", 7: "single",
    8: "int8", 9: "uint8", 10: "int16", 11: "uint16", 12: "int32", 13: "uint32", 14: "int64",
    15: "uint64",
}  # fmt: skip
_STORED = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_MOST_DIMENSIONS = 8


@dataclass(frozen=True, kw_only=True)
class Variable:
    """What a file announces of one variable, and the bytes that hold it.

    Args:
        kind: Its class, as MATLAB calls it.
        shape: Of the array.
        order: ``"<"`` or ``">"``, the order of bytes.
        start: Where its numbers begin in ``content``.
        content: The variable, unpacked if ``packed`` is not set.
        packed: That ``content`` is a zlib stream.
        size: Bytes of the variable when unpacked.
    """

    kind: str
    shape: tuple[int, ...]
    order: str
    start: int
    content: memoryview = field(repr=False)
    packed: bool
    size: int

    def read(self) -> Any:
        """The numbers, in the type that the file stores them in.

        Raises:
            DataError: If they are damaged, or none. It begins in the middle of a sentence.
        """
        content = self.content
        try:
            if self.packed:
                content = memoryview(zlib.decompressobj().decompress(content, self.size))
            kind, start, size = _tag(content, self.start, self.order)
        except (struct.error, zlib.error) as error:
            raise DataError(f"its numbers are damaged: {error}") from error
        if kind not in _STORED:
            raise DataError(f"numbers of the unknown type {kind}")
        stored = numpy.dtype(self.order + _STORED[kind])
        if size != math.prod(self.shape) * stored.itemsize or start + size > len(content):
            raise DataError(f"{size} bytes do not make an array of {self.shape} of {stored.name}")
        found = numpy.frombuffer(content[start : start + size], stored)
        return found.reshape(self.shape, order="F").astype(stored.newbyteorder("="), copy=False)


def read_variables(path: Path) -> dict[str, Variable]:
    """What a file holds; nothing is unpacked beyond each variable's first bytes.

    Args:
        path: A MATLAB 5 file (``save -v6`` and ``-v7``), up to ``LARGEST`` bytes.

    Returns:
        Its variables by name.

    Raises:
        DataError: If it is none, damaged, or too large. It begins in the middle of a sentence.
    """
    if path.stat().st_size > LARGEST:
        raise DataError(f"it has more than the {LARGEST:,} bytes allowed")
    content = memoryview(path.read_bytes())
    order = {b"IM": "<", b"MI": ">"}.get(bytes(content[126:_HEADER]))
    if order is None:
        raise DataError("its header is not that of such a file")
    try:
        return dict(_variables(content, order))
    except (struct.error, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"it is damaged: {error}") from error


def _variables(content: memoryview, order: str) -> Iterator[tuple[str, Variable]]:
    at = _HEADER
    while at < len(content):
        kind, start, size = _tag(content, at, order)
        if start + size > len(content):
            raise DataError(f"it is cut short: {size:,} bytes are announced at byte {at:,}")
        at, body = start + size, content[start : start + size]
        packed = kind == _COMPRESSED
        if packed:
            head = memoryview(zlib.decompressobj().decompress(body, _PREFIX))
            kind, first, inner = _tag(head, 0, order)
            size = first + inner
        else:
            head, first = body[:_PREFIX], 0
        if size > LARGEST:
            raise DataError(f"a variable has {size:,} bytes, over the {LARGEST:,} allowed")
        if kind == _MATRIX:
            yield _matrix(head, first, order, body, packed, size)


def _matrix(
    head: memoryview, at: int, order: str, body: memoryview, packed: bool, size: int
) -> tuple[str, Variable]:
    _, start, length = _tag(head, at, order)
    (flags,) = struct.unpack_from(f"{order}I", head, start)
    _, start, length = _tag(head, _even(start + length), order)
    if not 2 <= length // 4 <= _MOST_DIMENSIONS:
        raise DataError(f"a variable of {length // 4} dimensions")
    shape = struct.unpack_from(f"{order}{length // 4}i", head, start)
    if min(shape) < 0:
        raise DataError(f"a variable of the shape {shape}")
    _, start, length = _tag(head, _even(start + length), order)
    name = bytes(head[start : start + length]).decode("ascii")
    return name, Variable(
        kind=_CLASSES.get(flags & 0xFF, "unknown") if not flags & 0x800 else "complex",
        shape=shape,
        order=order,
        start=_even(start + length),
        content=body,
        packed=packed,
        size=size,
    )


def _tag(content: memoryview, at: int, order: str) -> tuple[int, int, int]:
    """Type, first byte and number of bytes of an element; up to four stand in the tag itself."""
    (word,) = struct.unpack_from(f"{order}I", content, at)
    if word >> 16:
        return word & 0xFFFF, at + 4, min(4, word >> 16)
    (size,) = struct.unpack_from(f"{order}I", content, at + 4)
    return word, at + 8, size


def _even(at: int) -> int:
    """Elements begin at multiples of eight bytes, counted from the variable's tag."""
    return -(-at // 8) * 8
