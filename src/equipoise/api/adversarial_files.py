"""The folder that ``attack`` writes: one ``.npz`` for each strength, PNG files and metadata."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor

from equipoise.records.epsilon import format_epsilon, parse_epsilon
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import (
    LOCK,
    PART,
    clear_temporaries,
    locked,
    read_json,
    write_bytes,
    write_json,
)

METADATA = "metadata.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class StrengthImages:
    """The images of one strength.

    Args:
        epsilon: The strength.
        norm: Norm of the threat.
        images: Adversarial images; the clean one where none was found.
        labels: Class indices.
        rows: Row of each image in the data.
        prediction: Class that the model gives to each; -1 for NaN.
        broken: Whether that is wrong.
        pixels: The same in 8 bits, if PNG files are asked for.
        pixel_prediction: Class that the model gives to these.
        by_rounding: Whether rounding towards the clean image left an image that fools.
    """

    epsilon: float
    norm: str
    images: Float[Tensor, "n channel height width"]
    labels: Int[Tensor, " n"]
    rows: Int[Tensor, " n"]
    prediction: Int[Tensor, " n"]
    broken: Bool[Tensor, " n"]
    pixels: UInt8[Tensor, "n channel height width"] | None = None
    pixel_prediction: Int[Tensor, " n"] | None = None
    by_rounding: Bool[Tensor, " n"] | None = None

    @property
    def name(self) -> str:
        """Name of the strength in file names, such as ``epsilon_8_255``."""
        written = format_epsilon(self.epsilon)
        if abs(parse_epsilon(written) - self.epsilon) > 1e-12:
            written = repr(self.epsilon)
        return f"epsilon_{written.replace('/', '_')}"

    def arrays(self) -> dict[str, Any]:
        """Return the arrays of the ``.npz`` file."""
        arrays = {
            "image": _channels_last(self.images),
            "label": self.labels.numpy(),
            "row": self.rows.numpy(),
            "prediction": self.prediction.numpy(),
            "broken": self.broken.numpy(),
            "epsilon": numpy.float64(self.epsilon),
            "norm": numpy.array(self.norm),
        }
        if self.pixels is not None and self.pixel_prediction is not None:
            arrays["image_8bit"] = _channels_last(self.pixels)
            arrays["prediction_8bit"] = self.pixel_prediction.numpy()
        return arrays

    def summary(self) -> dict[str, Any]:
        """Return the entry of ``metadata.json``."""
        counts = {
            "epsilon": self.epsilon,
            "epsilon_written": format_epsilon(self.epsilon),
            "file": f"{self.name}.npz",
            "images": len(self.labels),
            "broken": int(self.broken.sum()),
        }
        if self.pixel_prediction is None or self.by_rounding is None:
            return counts
        wrong = self.broken & (self.pixel_prediction != self.labels)
        return counts | {
            "png_folder": self.name,
            "broken_png": int(wrong.sum()),
            "broken_png_by_rounding": int((wrong & self.by_rounding).sum()),
        }


@dataclass(frozen=True)
class AdversarialFolder:
    """A folder of adversarial images that is being written.

    Args:
        path: The folder.
        metadata: Content of its ``metadata.json``.
    """

    path: Path
    metadata: dict[str, Any]

    @classmethod
    @contextmanager
    def open(cls, path: Path, request: dict[str, Any]) -> Iterator["AdversarialFolder"]:
        """Lock a folder and claim it for one request.

        Args:
            path: New, empty, or written for an equal request.
            request: What identifies the images, as JSON.

        Returns:
            A context manager.

        Raises:
            RunError: If the folder holds anything else, or another process writes it.
        """
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; choose another folder with --out.")
        with locked(path):
            clear_temporaries(path)
            _refuse_other_content(path, request)
            folder = cls(path, {"format": FORMAT, "complete": False, **request, "strengths": []})
            write_json(path / METADATA, folder.metadata)
            yield folder

    def write(self, found: StrengthImages) -> None:
        """Write the images of one strength."""
        if found.pixels is not None and found.pixel_prediction is not None:
            _write_png(self.path / found.name, found, found.pixels, found.pixel_prediction)
        content = io.BytesIO()
        numpy.savez(content, **found.arrays())
        write_bytes(self.path / f"{found.name}.npz", content.getvalue())
        self.metadata["strengths"].append(found.summary())
        write_json(self.path / METADATA, self.metadata)

    def finish(self, environment: dict[str, Any]) -> dict[str, Any]:
        """Mark the folder as complete.

        Args:
            environment: Software and hardware, for the metadata.

        Returns:
            The metadata.
        """
        self.metadata.update(complete=True, environment=environment)
        write_json(self.path / METADATA, self.metadata)
        return self.metadata


def _refuse_other_content(path: Path, request: dict[str, Any]) -> None:
    entries = [entry.name for entry in path.iterdir() if entry.name != LOCK]
    entries = [name for name in entries if not name.endswith(PART)]
    if not entries:
        return
    if METADATA not in entries:
        raise RunError(
            f"{path} holds other files, such as {min(entries)}; choose a new folder with --out."
        )
    earlier = read_json(path / METADATA)
    differing = [name for name, value in request.items() if earlier.get(name) != value]
    if differing:
        raise RunError(
            f"{path} holds the images of another attack, which differs in {', '.join(differing)}; "
            "choose another folder with --out, or delete this one."
        )


def _write_png(folder: Path, found: StrengthImages, pixels: Tensor, prediction: Tensor) -> None:
    """Write one PNG file for each image, and ``labels.csv``, which describes them."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file", "label", "row", "prediction", "broken"])
    for number, image in enumerate(_channels_last(pixels)):
        label, row, predicted = (
            int(column[number]) for column in (found.labels, found.rows, prediction)
        )
        content = io.BytesIO()
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(content, "PNG")
        write_bytes(folder / f"{row:06d}.png", content.getvalue())
        writer.writerow([f"{row:06d}.png", label, row, predicted, int(predicted != label)])
    write_bytes(folder / "labels.csv", table.getvalue().encode())


def _channels_last(images: Tensor) -> Any:
    return numpy.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
