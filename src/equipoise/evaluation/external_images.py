"""Adversarial images that others made: read, checked and scored as a further attack."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipoise.attacks.goals import misclassified
from equipoise.attacks.threat import THREATS, Threat
from equipoise.data import Split
from equipoise.evaluation.attack import AttackResult, Autocast, Kind
from equipoise.evaluation.external_files import (
    TOLERANCE,
    ExternalFile,
    aligned_images,
    checked_distances,
    clean_images,
    strength_of,
)
from equipoise.evaluation.suite import Suite
from equipoise.types import Images, Labels, Predict

EXTERNAL = "external"
"""Name of the suite, and kind of its attacks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ExternalImages:
    """Adversarial images from a file as an attack of an evaluation.

    An image counts at every strength that its own distance from the clean image does not exceed.

    Args:
        name: Name of the attack.
        digest: SHA-256 of the file.
        norm: Norm of the distances.
        epsilon: Strength that the distances were checked against.
        images: For each image of the evaluation the one from the file, or the clean one.
        distance: Distance of each from its clean image; infinite where the file has no image.
        rounding: Whether images were moved back into the threat after rounding to 8 bits.
        rows: The images of the batch that is attacked; see ``at_rows``.
    """

    name: str
    digest: str
    norm: str
    epsilon: float
    images: Float[Tensor, "n channel height width"]
    distance: Float[Tensor, " n"]
    rounding: bool = False
    rows: Int[Tensor, " rows"] | None = None

    @property
    def kind(self) -> Kind:
        """The attacker may be anyone."""
        return "external"

    def at_rows(self, rows: Int[Tensor, " rows"]) -> "ExternalImages":
        """Return the attack on these images of the evaluation."""
        return replace(self, rows=rows.cpu())

    @torch.no_grad()
    def run(
        self,
        model: Predict,
        images: Images,
        labels: Labels,
        threat: Threat,
        generator: torch.Generator,
        autocast: Autocast = contextlib.nullcontext,
    ) -> AttackResult:
        """Score the images of the batch that are inside the threat."""
        assert self.rows is not None, "at_rows says which images these are"
        assert isinstance(threat.epsilon, float)
        inside = self.distance[self.rows] <= threat.epsilon + TOLERANCE
        points, inside = images.clone(), inside.to(images.device)
        points[inside] = self.images[self.rows].to(images)[inside]
        broken = inside.clone()
        if bool(inside.any()):
            broken[inside] = misclassified(model(points[inside]), labels[inside])
        count = int(inside.sum())
        return AttackResult(broken=broken, images=points, forward_passes=count, backward_passes=0)

    def describe(self) -> dict[str, Any]:
        """Return the settings for the record and the cache key."""
        near = self.distance[self.distance.isfinite()]
        return {
            "name": self.name,
            "kind": self.kind,
            "file_sha256": self.digest,
            "epsilon": self.epsilon,
            "images": len(near),
            "largest_distance": float(near.max()) if len(near) else 0.0,
            "rounding": self.rounding,
        }


def external_suites(
    paths: Sequence[Path],
    split: Split,
    *,
    rows: Int[Tensor, " n"],
    part_size: int,
    norm: str,
    epsilons: Sequence[float],
    allow_rounding: bool = False,
) -> list[Suite]:
    """Read adversarial images that others made, and check that each is inside its threat.

    A file is an ``.npz`` as ``equipoise attack`` writes it, whose arrays ``row``, ``label``,
    ``epsilon`` and ``norm`` say what it holds; or a plain array (``.npy``, or ``.npz`` with one
    array) in the order of the data, at the largest strength of the evaluation.

    Args:
        paths: The files.
        split: The images under evaluation.
        rows: Row of each of them in its part of the data set.
        part_size: Number of images of that part.
        norm: Norm of the threat.
        epsilons: Strengths of the evaluation.
        allow_rounding: Take 8-bit images that are outside by up to half a grey level, as rounding
            leaves them; they are projected back before they are scored.

    Returns:
        The suite ``external``, which attacks every image whatever others have broken; nothing
        without files.

    Raises:
        DataError: If a file cannot be read, its shape, range, count, labels, norm or strength do
            not fit, or an image is too far from its clean image.

    Example:
        >>> import numpy, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "theirs.npy"
        >>> clean = torch.full((2, 1, 4, 4), 100, dtype=torch.uint8)
        >>> split = Split(images=clean, labels=torch.tensor([0, 1]), classes=2)
        >>> numpy.save(path, clean.float().numpy() / 255 + numpy.float32(0.1))
        >>> data = {"rows": torch.arange(2), "part_size": 2, "norm": "Linf"}
        >>> (suite,) = external_suites([path], split, epsilons=(0.0, 0.1), **data)
        >>> suite.attacks[0].describe()["images"]
        2
        >>> external_suites([path], split, epsilons=(0.0, 8 / 255), **data)
        Traceback (most recent call last):
        ...
        equipoise...DataError: ...theirs.npy: 2 of 2 images are outside the Linf threat of 8/255...
    """
    attacks = []
    for path in map(Path, paths):
        file = ExternalFile.read(path)
        epsilon = strength_of(file, norm, epsilons)
        images, has_image = aligned_images(file, split, rows, part_size)
        clean = clean_images(split)
        images, distance = checked_distances(
            file, images, clean, has_image, THREATS[norm](epsilon), allow_rounding
        )
        attacks.append(
            ExternalImages(
                name=f"{path.stem}-{file.digest[:6]}",
                digest=file.digest,
                norm=norm,
                epsilon=epsilon,
                images=images,
                distance=torch.where(has_image, distance, math.inf),
                rounding=allow_rounding,
            )
        )
    return [Suite(name=EXTERNAL, attacks=tuple(attacks), independent=True)] if attacks else []
