"""Checkpoints: tensors and JSON in one safetensors file, written atomically, verified when read."""

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from equipoise.runtime.errors import RunError
from equipoise.runtime.files import write_bytes

CURRENT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"


class CheckpointError(RunError):
    """A checkpoint that cannot be used. The message names the file and the remedy."""


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write a checkpoint and keep the one before it.

    Args:
        folder: Folder of the stage.
        tensors: Tensors on any device.
        state: JSON values.

    Raises:
        RunError: If it cannot be written; both earlier checkpoints are then untouched.
    """
    content = pack(tensors, state)
    new = folder / ".checkpoint.new"
    write_bytes(new, content)
    if (folder / CURRENT).exists():
        os.replace(folder / CURRENT, folder / PREVIOUS)
    os.replace(new, folder / CURRENT)


def load_checkpoint(
    folder: Path, warn: Any = lambda text: None
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read the newest undamaged checkpoint.

    Args:
        folder: Folder of the stage.
        warn: Called with a message if the newest is damaged and the one before it is used.

    Returns:
        Tensors and state, or ``None`` if there is no checkpoint.

    Raises:
        CheckpointError: If all checkpoints are damaged.
    """
    damage = []
    for path in (folder / CURRENT, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            content = unpack(path)
        except CheckpointError as error:
            damage.append(str(error))
            continue
        if damage:
            warn(f"{damage[0]} The previous checkpoint is intact and is used instead.")
        return content
    if damage:
        raise CheckpointError(
            f"{damage[0]} No other checkpoint is left; delete {folder} to train this stage again."
        )
    return None


def pack(tensors: dict[str, Tensor], state: dict[str, Any]) -> bytes:
    """Return the bytes of a safetensors file whose header holds the state and a checksum.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "file.safetensors"
        ...     _ = path.write_bytes(pack({"weight": torch.ones(2)}, {"epoch": 3}))
        ...     unpack(path)
        ({'weight': tensor([1., 1.])}, {'epoch': 3})
    """
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    owners: dict[int, str] = {}
    for name, tensor in plain.items():  # safetensors refuses shared memory, as of a norm used twice
        if owners.setdefault(tensor.untyped_storage().data_ptr(), name) != name:
            plain[name] = tensor.clone()
    document = json.dumps(state, allow_nan=False)
    metadata = {"state": document, "checksum": _checksum(plain, document)}
    return safetensors.torch.save(plain, metadata)


def unpack(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read and verify a packed file.

    Raises:
        CheckpointError: If it is missing, truncated or altered.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state = metadata["state"]
    except (safetensors.SafetensorError, OSError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged ({error}).") from error
    if metadata.get("checksum") != _checksum(tensors, state):
        raise CheckpointError(f"{path} is damaged (its checksum does not match its content).")
    return tensors, json.loads(state)


def random_state() -> dict[str, Tensor]:
    """Return the states of the global random generators of torch (CPU and GPUs), NumPy and Python.

    Example:
        >>> state = random_state()
        >>> first = torch.rand(1)
        >>> set_random_state(state)
        >>> torch.equal(torch.rand(1), first)
        True
    """
    _, keys, position, has_gauss, cached = numpy.random.get_state(legacy=True)
    _, words, gauss = random.getstate()
    states = {
        "torch": torch.get_rng_state(),
        "numpy": torch.tensor([*map(int, keys), int(position), int(has_gauss)]),
        "numpy_gauss": torch.tensor(float(cached), dtype=torch.float64),
        "python": torch.tensor(words),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        states |= {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def set_random_state(states: dict[str, Tensor]) -> None:
    """Restore the states of all global random generators."""
    torch.set_rng_state(states["torch"])
    *words, position, has_gauss = states["numpy"].tolist()
    gauss = float(states["numpy_gauss"])
    keys = numpy.array(words, dtype=numpy.uint32)
    numpy.random.set_state(("MT19937", keys, position, has_gauss, gauss))
    python_gauss = states["python_gauss"].tolist()
    python_words = tuple(states["python"].tolist())
    random.setstate((3, python_words, python_gauss[0] if python_gauss else None))
    if torch.cuda.is_available():
        for device in range(torch.cuda.device_count()):
            if f"cuda{device}" in states:
                torch.cuda.set_rng_state(states[f"cuda{device}"], device)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return every tensor of an optimiser's state, named by parameter number and key."""
    state = optimiser.state_dict()["state"]
    return {
        f"{number}.{key}": value
        for number, entry in state.items()
        for key, value in entry.items()
        if isinstance(value, Tensor)
    }


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load tensors into an optimiser's state, in the memory layout of their parameters."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for name, value in tensors.items():
        number, key = name.split(".", 1)
        parameter = parameters[int(number)]
        target = torch.empty_like(parameter) if value.shape == parameter.shape else value.clone()
        optimiser.state[parameter][key] = target.detach().copy_(value)


def _checksum(tensors: dict[str, Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
