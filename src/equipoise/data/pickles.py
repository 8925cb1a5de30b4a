"""Read the pickles of the original CIFAR archives without running code that they may hold."""

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy

from equipoise.data.dataset import DataError


class _CifarUnpickler(pickle._Unpickler):
    """Unpickler that knows the four names in CIFAR files, and builds uint8 arrays only.

    It is the Python implementation on purpose: the memo of the one in C is an array, which a
    pickle of ten bytes can grow to gigabytes.
    """

    dispatch = {  # noqa: RUF012
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if code != pickle.BYTEARRAY8[0]  # allocates whatever size the pickle announces
    }

    def find_class(self, module: str, name: str) -> Callable[..., Any] | None:
        match module, name:
            case "numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct":
                return lambda *_: numpy.empty(0, numpy.uint8)
            case "numpy", "ndarray":
                return None  # an argument of _reconstruct, never called
            case "numpy", "dtype":
                return lambda kind, *_: _only("u1", kind, numpy.dtype(numpy.uint8))
            case "_codecs", "encode":
                return lambda text, coding: _only("latin1", coding, text.encode("latin-1"))
        raise DataError(
            f"it names {module}.{name}, which no CIFAR file does: it was made to run code when it "
            "is unpickled. It was not run"
        )


def _only(allowed: str, value: Any, result: Any) -> Any:
    if value not in (allowed, allowed.encode()):
        raise DataError(f"it holds {str(value)[:50]!r} where CIFAR files have {allowed!r}")
    return result


def read_pickle(content: bytes) -> dict[str, Any]:
    """Read a pickle that holds what a CIFAR batch holds.

    Args:
        content: The whole file.

    Returns:
        A dict from text to numbers, texts, bytes, lists and uint8 arrays. Strings of Python 2
        become text.

    Raises:
        DataError: If it is damaged, or names anything but uint8 arrays; no code in it was run. The
            message begins in the middle of a sentence.

    Example:
        >>> read_pickle(pickle.dumps({"labels": [3, 8]}))
        {'labels': [3, 8]}
        >>> read_pickle(pickle.dumps({"labels": print}))
        Traceback (most recent call last):
        ...
        equipoise.data.dataset.DataError: it names builtins.print, which no CIFAR file does: ...
    """
    try:
        batch = _CifarUnpickler(io.BytesIO(content), encoding="latin-1").load()
        if not isinstance(batch, dict):
            raise DataError(f"it holds a {type(batch).__name__} instead of a dict")
        return {k.decode("latin-1") if isinstance(k, bytes) else _text(k): batch[k] for k in batch}
    except DataError:
        raise
    except Exception as error:  # damaged content makes pickle raise almost any error
        raise DataError(f"it is damaged or not a pickle of CIFAR ({error})") from error


def _text(key: Any) -> str:
    if not isinstance(key, str):
        raise DataError(f"it holds the key {str(key)[:50]!r}, which is not text")
    return key
