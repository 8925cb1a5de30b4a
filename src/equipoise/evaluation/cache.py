"""What is already known about a model under attack, unit by unit, in memory and on disk.

A unit is one attack at one strength on one batch. It is written whole or not at all, and the same
unit comes out the same whoever computes it: so an evaluation may be killed anywhere, be shared
between processes, or be taken up again at more strengths.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from jaxtyping import Int
from torch import Tensor, nn

from equipoise.data import Split
from equipoise.evaluation.attack import AttackResult
from equipoise.runtime.environment import version
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import STALE_SECONDS, clear_temporaries, write_bytes
from equipoise.types import Images

UNKNOWN, SURVIVED, BROKEN = 0, 1, 2
ANSWERS = "answers.safetensors"
ROUNDING = 1e-3


class Store:
    """Outcomes by attack, strength and image.

    Several evaluations may share a folder: an image that one of them broke stays broken.

    Args:
        count: Number of images under evaluation.
        folder: Where units are kept; ``None`` for memory only.

    Raises:
        RunError: If a unit on disk belongs to more images than there are. A damaged unit is
            deleted, and computed again.
    """

    def __init__(self, count: int, folder: Path | None = None) -> None:
        self.count = count
        self.folder = folder
        self._known: dict[str, Tensor] = {}
        self._found: dict[str, dict[int, Tensor]] = {}
        self._costs: dict[str, list[float]] = {}
        if folder is not None and folder.is_dir():
            for place in sorted(path for path in folder.iterdir() if path.is_dir()):
                clear_temporaries(place, older=STALE_SECONDS)
                for path in sorted(place.glob("*.safetensors")):
                    self._read(place.name, path)

    def outcome(self, key: str, rows: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
        """What is known of each image: unknown, survived or broken."""
        return self._table(key)[rows]

    def put(
        self, key: str, rows: Int[Tensor, " rows"], found: AttackResult, seconds: float
    ) -> None:
        """Add a unit, on disk first.

        Args:
            key: Attack and strength, from ``unit_key``.
            rows: Which images.
            found: What the attack did to them.
            seconds: Time it took.

        Raises:
            RunError: If it cannot be written.
        """
        broken = found.broken.cpu()
        tensors = {
            "rows": rows.cpu(),
            "broken": broken,
            "images": found.images.detach().cpu()[broken].contiguous(),
            "cost": torch.tensor(
                [found.forward_passes, found.backward_passes, seconds], dtype=torch.float64
            ),
        }
        if self.folder is not None:
            rest = hashlib.sha256(tensors["rows"].numpy().tobytes()).hexdigest()[:8]
            name = f"{int(rows[0]):08d}_{len(rows)}_{rest}.safetensors"
            path = self.folder / key / name
            write_bytes(path, safetensors.torch.save(tensors))
        self._add(key, tensors)

    def cost(self, key: str) -> tuple[int, int, float]:
        """Forward passes, backward passes and seconds of all units of an attack and strength."""
        forward, backward, seconds = self._costs.get(key, [0.0, 0.0, 0.0])
        return int(forward), int(backward), seconds

    def found(self, key: str) -> Iterator[tuple[int, Images]]:
        """Every adversarial image ``(1, channel, height, width)`` of an attack and strength, with
        the image's place in the split."""
        for row, image in sorted(self._found.get(key, {}).items()):
            yield row, image[None]

    def _table(self, key: str) -> Tensor:
        return self._known.setdefault(key, torch.full((self.count,), UNKNOWN, dtype=torch.int8))

    def _read(self, key: str, path: Path) -> None:
        try:
            tensors = safetensors.torch.load_file(path)
            rows = tensors["rows"]
        except (safetensors.SafetensorError, OSError, KeyError):
            path.unlink(missing_ok=True)
            return
        if len(rows) and int(rows.max()) >= self.count:
            raise RunError(
                f"{path} speaks of image {int(rows.max())}, but only {self.count} are evaluated; "
                f"delete {self.folder}."
            )
        self._add(key, tensors)

    def _add(self, key: str, tensors: dict[str, Tensor]) -> None:
        rows, broken = tensors["rows"], tensors["broken"].bool()
        table, now = self._table(key), torch.where(broken, BROKEN, SURVIVED).to(torch.int8)
        table[rows] = table[rows].maximum(now)
        images = self._found.setdefault(key, {})
        for row, image in zip(rows[broken].tolist(), tensors["images"], strict=True):
            images[row] = image
        costs = self._costs.setdefault(key, [0.0, 0.0, 0.0])
        for number, value in enumerate(tensors["cost"].tolist()):
            costs[number] += value


def unit_key(attack: dict[str, Any], norm: str, epsilon: float, seed: int, precision: str) -> str:
    """The name of an attack at a strength; attacks with the same settings share it.

    Args:
        attack: What ``Attack.describe`` says.
        norm: Geometry of the threat.
        epsilon: Strength.
        seed: Of the evaluation.
        precision: Of the searches.

    Returns:
        A folder name. It changes with the version of Equipoise, whose attacks may have changed.
    """
    text = json.dumps(
        [attack, norm, epsilon, seed, precision, version("equipoise")], sort_keys=True
    )
    return f"{attack['name']}_{hashlib.sha256(text.encode()).hexdigest()[:12]}".replace("/", "_")


def known_place(home: Path, name: str, model: nn.Module, split: Split) -> Path:
    """Where the units of this very function are kept.

    Weights do not say what a network computes with them: its code may have been changed since, or a
    setting that is no weight. So beside the units lies what the network answered then, logits and
    an input gradient; where it answers otherwise now, they are another's.

    Args:
        home: Of the evaluations of a model.
        name: The model's.
        model: The network, in eval mode.
        split: The images that it is judged on.

    Returns:
        A folder named after the fingerprint, with the answers in it, if there are any; with a
        number behind it where another function came first.

    Raises:
        RunError: If they cannot be written.
    """
    folder = home / f"{name}_{fingerprint(model, split)[:12]}"
    answers = _answers(model, split)
    if not answers:
        return folder
    for number in itertools.count(1):
        place = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        path = place / ANSWERS
        try:
            before = safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError):
            if place.exists() and any(each.is_dir() for each in place.iterdir()):
                continue  # units without answers: nobody knows whose
            write_bytes(path, safetensors.torch.save(answers))
            return place
        if _alike(before, answers):
            return place
    raise AssertionError("numbers do not end")


def _answers(model: nn.Module, split: Split) -> dict[str, Tensor]:
    """What it makes of a few images, and the gradient of the sum of squares; nothing where it is in
    train mode or returns no finite tensor, which an evaluation refuses with better words."""
    if model.training:
        return {}
    images, _ = split.batch(slice(0, 16))
    points = images.contiguous(memory_format=torch.channels_last).requires_grad_(True)
    devices = [points.device] if points.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        torch.enable_grad(),
        torch.autocast(points.device.type, enabled=False),
    ):
        logits = model(points)
        if not isinstance(logits, Tensor) or not bool(logits.isfinite().all()):
            return {}
        found = {"logits": logits}
        if getattr(model, "gives_gradients", True) and logits.requires_grad:
            squares = logits.square().sum()
            (gradient,) = torch.autograd.grad(squares, points, allow_unused=True)
            found["gradient"] = torch.zeros_like(points) if gradient is None else gradient
    return {name: value.detach().cpu().float().contiguous() for name, value in found.items()}


def _alike(before: dict[str, Tensor], now: dict[str, Tensor]) -> bool:
    """Whether two answers are the same up to the rounding of other threads or another device."""
    return before.keys() == now.keys() and all(
        torch.equal(before[name].isfinite(), value.isfinite())
        and bool(_finite(before[name] - value).norm() <= ROUNDING * _finite(value).norm())
        for name, value in now.items()
    )


def _finite(values: Tensor) -> Tensor:
    return values.nan_to_num(0.0, 0.0, 0.0)


def fingerprint(model: nn.Module, split: Split) -> str:
    """A hash of a model's weights and of the images and labels it is judged on.

    Returns:
        64 hexadecimal digits.
    """
    found = _weights(model)
    found.update(images_hash(split).encode())
    digest: str = found.hexdigest()
    return digest


def weights_hash(model: nn.Module) -> str:
    """A short hash of a model's kind and weights.

    Returns:
        12 hexadecimal digits.
    """
    return _weights(model).hexdigest()[:12]


def _weights(model: nn.Module) -> Any:
    found = hashlib.sha256(repr(model).encode())
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode())
        content = value.detach().cpu().contiguous().view(-1).view(torch.uint8)  # any dtype
        found.update(content.numpy().tobytes())
    return found


def images_hash(split: Split) -> str:
    """A hash of images and labels, so that records of the same images know each other.

    Returns:
        64 hexadecimal digits.
    """
    found = hashlib.sha256()
    for first in range(0, len(split), 1024):  # images may lie in a file that memory cannot hold
        pixels = split.images[first : first + 1024]
        found.update(pixels.cpu().contiguous().numpy().tobytes())
    found.update(split.labels.cpu().to(torch.int64).numpy().tobytes())
    return found.hexdigest()
