"""Pickles of the original CIFAR archives, read without unpickling: no object of theirs is made.

The opcodes are interpreted here, and only those that such files hold. What a pickle may name is
data to this reader; nothing is looked up, imported or called.
"""

import math
import pickletools
import warnings
from typing import Any

import numpy

from equipoise.data.dataset import DataError

_RECONSTRUCT = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
_NDARRAY, _DTYPE, _ENCODE = "numpy ndarray", "numpy dtype", "_codecs encode"
_NAMES = {*_RECONSTRUCT, _NDARRAY, _DTYPE, _ENCODE}
_MARK = object()

_VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1",
    "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip
_STRINGS = {"BINSTRING", "SHORT_BINSTRING"}  # of Python 2: bytes
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Name(str):
    """A global that the pickle names."""


class _Dtype:
    """Stands for ``numpy.dtype("u1")``."""


class _Array:
    """Stands for an array; it has pixels once its state has come."""

    value: Any = None


def read_pickle(content: bytes) -> dict[str, Any]:
    """Read a pickle that holds what a CIFAR batch holds.

    Args:
        content: The whole file, in pickle protocol 2 to 4.

    Returns:
        A dict from texts to numbers, texts, bytes, lists and uint8 arrays. Keys of Python 2 are
        texts, too.

    Raises:
        DataError: If it is damaged, or holds anything else; the message begins in the middle of a
            sentence. Nothing of it was executed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pickletools warns of odd escapes in damaged texts
            found = _run(content)
    except DataError:
        raise
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(f"it is damaged or no pickle of CIFAR ({error})") from error
    if not isinstance(found, dict):
        raise DataError(f"it holds a {type(found).__name__} where a dict belongs")
    return {_text(key): _plain(value) for key, value in found.items()}


def _run(content: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if name in _VALUES:
            stack.append(argument)
        elif name in _STRINGS:
            stack.append(argument.encode("latin-1"))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            stack.append(tuple(_popped(stack, _TUPLES[name])))
        elif name == "TUPLE":
            stack.append(tuple(_since_mark(stack)))
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("APPEND", "APPENDS"):
            items = _popped(stack, 1) if name == "APPEND" else _since_mark(stack)
            _of(list, stack[-1]).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = _popped(stack, 2) if name == "SETITEM" else _since_mark(stack)
            _of(dict, stack[-1]).update(zip(items[::2], items[1::2], strict=True))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_named(argument))
        elif name == "STACK_GLOBAL":
            stack.append(_named(" ".join(map(str, _popped(stack, 2)))))
        elif name == "REDUCE":
            called, arguments = _popped(stack, 2)
            stack.append(_stand_in(called, arguments))
        elif name == "BUILD":
            _build(stack[-2], stack.pop())
        elif name == "STOP":
            (found,) = stack
            return found
        elif name not in ("PROTO", "FRAME"):
            raise DataError(f"it holds the instruction {name}, which no CIFAR file has")
    raise DataError("it is cut short")


def _named(name: str) -> _Name:
    if name not in _NAMES:
        raise DataError(
            f"it names {name.replace(' ', '.')}, which no CIFAR file does: it was made to run code "
            "when it is unpickled. It was not run"
        )
    return _Name(name)


def _stand_in(called: Any, arguments: Any) -> Any:
    if isinstance(called, _Name) and isinstance(arguments, tuple):
        if called in _RECONSTRUCT and arguments[0] == _NDARRAY:
            return _Array()
        if called == _DTYPE and _text(arguments[0]) == "u1":
            return _Dtype()
        if called == _ENCODE and arguments[1] == "latin1":
            return _of(str, arguments[0]).encode("latin-1")
    raise DataError(f"it makes an object of {called!s:.50} and {arguments!s:.50}; refused")


def _build(made: Any, state: Any) -> None:
    if isinstance(made, _Dtype):
        return
    _, shape, kind, fortran, raw = state
    if not isinstance(made, _Array) or not isinstance(kind, _Dtype):
        raise DataError("it holds an array of another type than uint8")
    if not isinstance(raw, bytes) or math.prod(shape) != len(raw) or min(shape, default=0) < 0:
        raise DataError(f"it holds an array of shape {shape} that does not fit its content")
    made.value = numpy.frombuffer(raw, numpy.uint8).reshape(shape, order="F" if fortran else "C")


def _popped(stack: list[Any], count: int) -> list[Any]:
    if len(stack) < count or any(item is _MARK for item in stack[len(stack) - count :]):
        raise DataError("it is damaged: its stack runs empty")
    items = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return items


def _since_mark(stack: list[Any]) -> list[Any]:
    place = len(stack) - 1
    while stack[place] is not _MARK:  # an IndexError where there is none
        place -= 1
        if place < 0:
            raise DataError("it is damaged: a mark is missing")
    items = stack[place + 1 :]
    del stack[place:]
    return items


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise DataError(f"it holds a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else _of(str, value)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value
