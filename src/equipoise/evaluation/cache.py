"""Cache of attack results, work unit by work unit, in memory and on disk.

A unit is one attack at one strength on one batch. It is written completely or not at all, and its
result is the same in whichever process it is computed. So an evaluation may be killed at any time,
shared between processes, or continued at more strengths.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from jaxtyping import Int
from torch import Tensor, nn

from equipoise.attacks.goals import misclassified
from equipoise.attacks.losses import margin
from equipoise.data import Split
from equipoise.evaluation.attack import WITNESSES, AttackResult
from equipoise.evaluation.fresh_copy import FreshCopies, differs
from equipoise.evaluation.source_hash import source_hash
from equipoise.evaluation.verification import LOGIT_ROUNDING
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import STALE_SECONDS, clear_temporaries, write_bytes
from equipoise.types import Images

UNKNOWN, SURVIVED, BROKEN = 0, 1, 2


class EvaluationCache:
    """Outcomes and adversarial images, by attack, strength and image.

    Several evaluations may share a folder. If one of them broke an image, it stays broken.

    Args:
        count: Number of images under evaluation.
        folder: Folder of the units; ``None`` keeps them in memory only.
        identity: What function and which images the results are of, for the record.

    Raises:
        RunError: If a unit on disk names an image beyond ``count``. A damaged unit is deleted and
            computed again.

    Example:
        >>> import torch
        >>> from equipoise.evaluation import AttackResult, EvaluationCache
        >>> from equipoise.evaluation.cache import BROKEN, SURVIVED, UNKNOWN
        >>> cache = EvaluationCache(count=3)
        >>> result = AttackResult(
        ...     broken=torch.tensor([True, False]),
        ...     images=torch.zeros(2, 1, 8, 8),
        ...     forward_passes=4,
        ...     backward_passes=2,
        ... )
        >>> cache.put("pgd", torch.tensor([2, 0]), result, seconds=0.1)
        >>> cache.outcome("pgd", torch.arange(3)).tolist() == [SURVIVED, UNKNOWN, BROKEN]
        True
        >>> [row for row, image in cache.adversarial_images("pgd")]
        [2]
    """

    def __init__(self, count: int, folder: Path | None = None, identity: str | None = None) -> None:
        self.count, self.folder, self.identity = count, folder, identity
        self._outcomes: dict[str, Tensor] = {}
        self._images: dict[str, dict[int, Tensor]] = {}
        self._costs: dict[str, list[float]] = {}
        self._witnesses: list[tuple[Tensor, Tensor]] = []  # points of unbroken images, and logits
        if folder is not None and folder.is_dir():
            for key_folder in sorted(path for path in folder.iterdir() if path.is_dir()):
                clear_temporaries(key_folder, older=STALE_SECONDS)
                for path in sorted(key_folder.glob("*.safetensors")):
                    self._read(key_folder.name, path)

    def outcome(self, key: str, rows: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
        """Return UNKNOWN, SURVIVED or BROKEN for each image."""
        return self._outcomes_of(key)[rows]

    def put(
        self, key: str, rows: Int[Tensor, " rows"], result: AttackResult, seconds: float
    ) -> None:
        """Add a unit, first on disk and then in memory.

        Args:
            key: Key of the attack and strength, from ``EvaluationContext.key``.
            rows: Indices of the images.
            result: Result of the attack on them.
            seconds: Time it took.

        Raises:
            RunError: If the unit cannot be written.
        """
        broken = result.broken.cpu()
        tensors = {
            "rows": rows.cpu(),
            "broken": broken,
            "images": result.images.detach().cpu()[broken].contiguous(),
            "cost": torch.tensor(
                [result.forward_passes, result.backward_passes, seconds], dtype=torch.float64
            ),
        }
        if result.logits is not None:
            unbroken = result.images.detach().cpu()[~broken][:WITNESSES]
            tensors |= {
                "witnesses": unbroken.contiguous(),
                "logits": result.logits.cpu().contiguous(),
            }
        if self.folder is not None:
            digest = hashlib.sha256(tensors["rows"].numpy().tobytes()).hexdigest()[:8]
            path = self.folder / key / f"{int(rows[0]):08d}_{len(rows)}_{digest}.safetensors"
            write_bytes(path, safetensors.torch.save(tensors))
        self._add(key, tensors)

    def cost(self, key: str) -> tuple[int, int, float]:
        """Return forward passes, backward passes and seconds of all units of a key."""
        forward, backward, seconds = self._costs.get(key, [0.0, 0.0, 0.0])
        return int(forward), int(backward), seconds

    def adversarial_images(self, key: str) -> Iterator[tuple[int, Images]]:
        """Yield the row and the adversarial image ``(1, channel, height, width)`` of each break."""
        for row, image in sorted(self._images.get(key, {}).items()):
            yield row, image[None]

    def is_of(self, copies: FreshCopies, split: Split) -> bool:
        """Ask a model again what the results say; see whether they can be its own.

        Args:
            copies: Copies of the model, which are asked.
            split: The images of the evaluation.

        Returns:
            Whether every adversarial image is misclassified, up to rounding, and whether the logits
            of the points that did not fool it are those that were stored.
        """
        for images in filter(None, self._images.values()):
            for rows in torch.tensor(sorted(images), dtype=torch.long).split(256):
                labels = split.batch(rows.to(split.device))[1]
                points = torch.stack([images[row] for row in rows.tolist()]).to(split.device)
                logits = copies.ask(points)
                slack = LOGIT_ROUNDING * logits.abs().amax(dim=1).clamp_min(1e-6)
                if bool((~misclassified(logits, labels) & (margin(logits, labels) < -slack)).any()):
                    return False
        return not any(
            bool(differs(copies.ask(points.to(split.device)), logits).any())
            for points, logits in self._witnesses
        )

    def _outcomes_of(self, key: str) -> Tensor:
        return self._outcomes.setdefault(key, torch.full((self.count,), UNKNOWN, dtype=torch.int8))

    def _read(self, key: str, path: Path) -> None:
        try:
            tensors = safetensors.torch.load_file(path)
            rows = tensors["rows"]
        except (safetensors.SafetensorError, OSError, KeyError):
            path.unlink(missing_ok=True)
            return
        if len(rows) and int(rows.max()) >= self.count:
            raise RunError(
                f"{path} holds image {int(rows.max())}, but only {self.count} images are under "
                f"evaluation; delete {self.folder}."
            )
        self._add(key, tensors)
        if "witnesses" in tensors and len(tensors["witnesses"]):
            self._witnesses.append((tensors["witnesses"], tensors["logits"]))

    def _add(self, key: str, tensors: dict[str, Tensor]) -> None:
        rows, broken = tensors["rows"], tensors["broken"].bool()
        outcomes = self._outcomes_of(key)
        new_outcomes = torch.where(broken, BROKEN, SURVIVED).to(torch.int8)
        outcomes[rows] = outcomes[rows].maximum(new_outcomes)
        images = self._images.setdefault(key, {})
        for row, image in zip(rows[broken].tolist(), tensors["images"], strict=True):
            images[row] = image
        costs = self._costs.setdefault(key, [0.0, 0.0, 0.0])
        for index, value in enumerate(tensors["cost"].tolist()):
            costs[index] += value


def fingerprint(model: nn.Module, split: Split, modules: Sequence[str] = ()) -> str:
    """Return a hash of a model's weights and source, and of the images and labels.

    Args:
        model: The model.
        split: The images under evaluation.
        modules: Names of further modules that the model comes from, see ``source_hash``.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> import torch
        >>> from equipoise.data import Split
        >>> from equipoise.evaluation import fingerprint
        >>> model, images = torch.nn.Flatten(), torch.zeros(2, 1, 1, 2, dtype=torch.uint8)
        >>> split = Split(images=images, labels=torch.tensor([0, 1]), classes=2)
        >>> relabelled = Split(images=images, labels=torch.tensor([1, 1]), classes=2)
        >>> fingerprint(model, split) == fingerprint(model, relabelled)
        False
    """
    digest = _weights_digest(model, modules)
    digest.update(images_hash(split).encode())
    hexadecimal: str = digest.hexdigest()
    return hexadecimal


def weights_hash(model: nn.Module) -> str:
    """Return a short hash of a model's architecture (its ``repr``), source and weights.

    Returns:
        12 hexadecimal digits.

    Example:
        >>> import torch
        >>> from equipoise.evaluation.cache import weights_hash
        >>> model = torch.nn.Linear(2, 2)
        >>> before = weights_hash(model)
        >>> _ = torch.nn.init.zeros_(model.bias)
        >>> len(before), weights_hash(model) == before
        (12, False)
    """
    return _weights_digest(model).hexdigest()[:12]


def _weights_digest(model: nn.Module, modules: Sequence[str] = ()) -> Any:
    digest = hashlib.sha256(repr(model).encode())
    digest.update((source_hash(model, modules) or "").encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        content = value.detach().cpu().contiguous().view(-1).view(torch.uint8)  # any dtype
        digest.update(content.numpy().tobytes())
    return digest


def images_hash(split: Split) -> str:
    """Return a hash of images and labels, which identifies the test set of a record.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> import torch
        >>> from equipoise.data import Split
        >>> from equipoise.evaluation import images_hash
        >>> images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
        >>> split = Split(images=images, labels=torch.tensor([0, 1]), classes=2)
        >>> images_hash(split)[:12]
        '604ddb808b45'
    """
    digest = hashlib.sha256()
    for first in range(0, len(split), 1024):  # a memory-mapped file may be larger than memory
        pixels = split.images[first : first + 1024]
        digest.update(pixels.cpu().contiguous().numpy().tobytes())
    digest.update(split.labels.cpu().to(torch.int64).numpy().tobytes())
    return digest.hexdigest()
