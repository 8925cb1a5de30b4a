"""Read a state dict from a file that any PyTorch project wrote, without running code."""

import argparse
import pathlib
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from equipoise.runtime.errors import RunError

KEYS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "module", "params", "weights"),
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "ema_model"),
)
"""Where checkpoints keep the weights; an average of them is taken only if there is nothing else."""
_COUNTERS = ("total_ops", "total_params", "n_averaged")
"""Numbers that profilers and averages leave among the weights."""


_PLAIN_VALUES: tuple[Any, ...] = (
    argparse.Namespace,
    pathlib.PosixPath,
    np.dtype,
    *(type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64", "bool")),
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
)
"""Types without code that training scripts store beside weights: arguments and scores."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the state dict in a file, also from inside a checkpoint.

    Args:
        path: A ``.safetensors`` file, or a file of ``torch.save`` (``.pth``, ``.pt``, ``.ckpt``)
            that holds only tensors and plain values.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        RunError: If the file does not exist, is damaged, holds anything that could run code, or
            holds no state dict.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "checkpoint.pth"
        >>> torch.save({"epoch": 3, "net": {"module.weight": torch.ones(2)}}, path)
        >>> read_state_dict(path)
        {'module.weight': tensor([1., 1.])}
    """
    if not path.is_file():
        raise RunError(f"{path} does not exist.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(list(_PLAIN_VALUES)):
            document: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise almost anything
        advises_code = isinstance(error, pickle.UnpicklingError)  # weights_only=False
        reason = "" if advises_code else f" ({_line(error)})"
        raise RunError(
            f"{path} cannot be read as tensors and plain values{reason}; anything else is "
            "rejected, because loading it could run code. Write the weights alone where the file "
            'comes from: torch.save(network.state_dict(), "weights.pth").'
        ) from error
    found = _inside(document)
    if not found:
        keys = f" with {', '.join(map(str, document))}" if isinstance(document, dict) else ""
        raise RunError(
            f"{path} holds no state dict, which maps names to tensors, got "
            f"{type(document).__name__}{keys}; write one with torch.save(network.state_dict(), "
            '"weights.pth").'
        )
    return {n: value for n, value in found.items() if n.rpartition(".")[2] not in _COUNTERS}


def unwrapped(tensors: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """Take away what wrappers put before the names: ``module.``, ``_orig_mod.``, ``model.net.``.

    Args:
        tensors: A state dict.
        wanted: Names that the network has.

    Returns:
        The tensors under the prefix with which most names are wanted, without it; those under
        another prefix, such as the weights of a loss, are left out.

    Example:
        >>> state = {"model.fc.weight": torch.ones(1), "loss.weight": torch.ones(1)}
        >>> list(unwrapped(state, ["fc.weight"]))
        ['fc.weight']
    """
    prefixes = {""}
    for name in tensors:
        parts = name.split(".")
        prefixes |= {".".join(parts[:depth]) + "." for depth in range(1, min(len(parts), 5))}

    def under(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}

    known = set(wanted)
    best = max(sorted(prefixes, key=len), key=lambda prefix: len(known & under(prefix).keys()))
    return under(best)


def _inside(document: Any) -> dict[str, Tensor]:
    """The state dict in what a file holds, or nothing."""
    if not isinstance(document, dict):
        return {}
    if document and all(isinstance(value, Tensor) for value in document.values()):
        return dict(document)
    nested = (_inside(document[key]) for key in KEYS if key in document)
    return next((found for found in nested if found), {})


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
