"""A saved model as one file for other programs, checked against the original before it is kept."""

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from equipoise.attacks import PGD
from equipoise.attacks.goals import margin
from equipoise.data import DataError
from equipoise.evaluation.cache import images_hash
from equipoise.methods.stage import THREATS
from equipoise.models import AdaptiveNetwork
from equipoise.models.afa.adaptive_network import first_convolution
from equipoise.models.attack_mode.context import attack_mode
from equipoise.models.conditional_network import FixedPreference
from equipoise.models.io.exported import CARD_FILE, CARD_KEY
from equipoise.models.io.external import load_external
from equipoise.records.epsilon import format_epsilon
from equipoise.report.score_card import score_card
from equipoise.runtime.environment import commit
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import write_bytes
from equipoise.types import Images, Labels
from equipoise.workflows import model_card
from equipoise.workflows.datasets import source_of
from equipoise.workflows.model_source import LoadedModel, at_preference, find_model

Format = Literal["onnx", "torch-export"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
TOLERANCE = 1e-4  # of an output's largest number, or absolute where that is below 1
EPSILON = 8 / 255  # of the check's attack, where nothing says which strengths the model is for


class ExportError(RunError):
    """A model that cannot be exported; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A written file, and how it compared with the original.

    Args:
        path: The file.
        card: Its score card.
        images: How many images it was compared on, clean and again adversarial.
        source: Where they came from.
        epsilon: Strength of the adversarial ones.
        difference_clean: Largest difference of any output on clean images, as ``difference`` says.
        difference_adversarial: The same on adversarial images.
    """

    path: Path
    card: dict[str, Any]
    images: int
    source: str
    epsilon: float
    difference_clean: float
    difference_adversarial: float

    def summary(self) -> str:
        """How it compared, in a sentence, and what it says of the model."""
        scores = self.card["scores"]
        carries = (
            "It carries no scores: there is no record yet."
            if scores is None
            else f"It carries the scores on {scores['images']} test images of {scores['data']}."
        )
        return (
            f"outputs differ from the original's by at most {self.difference_clean:.2g} on "
            f"{self.images} images ({self.source}) and {self.difference_adversarial:.2g} on the "
            f"same attacked at {format_epsilon(self.epsilon)}. {carries}"
        )


class Deployed(nn.Module):
    """What is exported: images to a tuple of outputs.

    Args:
        network: A model in eval mode.

    Shape:
        Images ``(batch, channel, height, width)`` in [0, 1] to logits ``(batch, classes)`` and, for
        AFA, W1 ``(batch,)``, the robust branch's share.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.outputs = ["logits"] + (["w1"] if isinstance(network, AdaptiveNetwork) else [])

    def forward(self, images: Images) -> tuple[Tensor, ...]:
        """All outputs."""
        if isinstance(self.network, AdaptiveNetwork):
            logits, weight = self.network.logits_and_weight(images)
            return logits, 1 - weight
        return (self.network(images),)


def export(
    model: str,
    file: Path,
    *,
    form: Format,
    preference: float | None = None,
    images: int = 64,
    data: Path | None = None,
    size: tuple[int, int] | None = None,
) -> Exported:
    """Write a model as an ONNX or ``torch.export`` file with its score card inside.

    Nothing is kept that does not answer as the original: the file is read back and both are
    compared, on clean images and on adversarial ones made on the original.

    Args:
        model: A run folder, a model folder, or ``hf://owner/name``.
        file: To be written.
        form: ``"onnx"``, or ``"torch-export"`` for a ``.pt2``.
        preference: For a conditional network (OAT), the lambda to fix; its default if not given.
        images: How many images to compare on: of the model's own test data, or noise where that is
            not here.
        data: Folder of that data, if it lies elsewhere here.
        size: Height and width of images, for a folder that does not say what it was trained at.

    Returns:
        What was written.

    Raises:
        ExportError: If the ending is wrong, the network cannot be traced, or the file's answers
            differ by more than ``TOLERANCE``; nothing is written then.
        RunError: If the model cannot be loaded or the file not be written.
    """
    file = Path(file)
    if file.suffix != SUFFIXES[form]:
        raise ExportError(f"a file of {form} must end in {SUFFIXES[form]}, got {file}.")
    if images < 2:
        raise ExportError(f"images must be 2 or more, got {images}.")
    subject = find_model(model)
    if subject.folder is None:
        raise ExportError(f"{model} is no model folder; only those are exported.")
    network, name = at_preference(subject.network, subject.name, preference)
    fixed = network.preference if isinstance(network, FixedPreference) else None
    record = model_card.record_at(subject.folder, fixed)
    shape = image_shape(subject, size)
    deployed = Deployed(network.requires_grad_(False)).eval()
    card = score_card(subject.card, record) | {
        "name": name,
        "image_shape": list(shape),
        "outputs": deployed.outputs,
        "exported_by": commit(),
    }
    clean, labels, source = _examples(deployed, subject, shape, images, data)
    norm, epsilon = _threat(card, subject.card)
    with attack_mode(network):
        goal = margin(lambda batch: deployed(batch)[0], labels)
        search = PGD(steps=10, relative_step=0.25, keep="best")
        adversarial = search(goal, clean, THREATS[norm](epsilon), torch.Generator().manual_seed(0))
    content = (_onnx if form == "onnx" else _torch_export)(deployed, clean[:2], json.dumps(card))
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / f"exported{file.suffix}"
        write_bytes(written, content)
        found = load_external(str(written), trust=[str(written)])
        on_clean = difference(found, deployed, clean)
        on_adversarial = difference(found, deployed, adversarial)
    if not max(on_clean, on_adversarial) <= TOLERANCE:  # also where one of them is NaN
        raise ExportError(
            f"{form} answers otherwise than the original, by {on_clean:.2g} on clean and "
            f"{on_adversarial:.2g} on adversarial images; at most {TOLERANCE:g} is allowed, so "
            f"{file} was not written. Try the other format."
        )
    write_bytes(file, content)
    return Exported(
        path=file,
        card=card,
        images=len(clean),
        source=source,
        epsilon=epsilon,
        difference_clean=on_clean,
        difference_adversarial=on_adversarial,
    )


def image_shape(subject: LoadedModel, size: tuple[int, int] | None = None) -> tuple[int, ...]:
    """Channels, height and width of the images that a model takes.

    Args:
        subject: A model from a folder.
        size: Height and width, if the caller knows better.

    Returns:
        What its card says, or its data; folders of earlier versions say nothing themselves.

    Raises:
        RunError: If nobody knows, or the size is none.
    """
    if size is not None:
        if min(size) < 1:
            raise RunError(f"--size must be two numbers of 1 or more, got {size}.")
        return first_convolution(subject.network).in_channels, *size
    if "image_shape" in subject.card:
        return tuple(int(number) for number in subject.card["image_shape"])
    try:
        return source_of(subject.card, None).load().image_shape
    except ValueError as error:  # DataError is one
        raise RunError(
            f"{subject.name} does not say which size of images it was trained at; give it with "
            "--size HEIGHT WIDTH."
        ) from error


def difference(found: Any, deployed: Deployed, images: Images) -> float:
    """Largest difference of any output between a file and the original, as a share of that output's
    largest absolute value, or absolute where that is below 1.

    The first image goes alone, the others together: a file of fixed batch size fails here.

    Returns:
        The difference; NaN if an answer is.
    """
    largest = []
    with torch.no_grad():
        for batch in (images[:1], images[1:]):
            pairs = zip(found.outputs(batch), deployed(batch), strict=True)
            largest += [
                (one - other).abs().max() / other.abs().max().clamp_min(1.0) for one, other in pairs
            ]
    return float(torch.stack(largest).max())


def _examples(
    deployed: Deployed, subject: LoadedModel, shape: tuple[int, ...], count: int, data: Path | None
) -> tuple[Images, Labels, str]:
    """Test images of the model's data, or noise, which the model itself labels."""
    with contextlib.suppress(DataError, ValueError):
        dataset = source_of(subject.card, data).load()
        if dataset.image_shape == shape:
            split = dataset.test.first(count)
            return *split.batch(slice(None)), f"{dataset.name} ({images_hash(split)[:12]})"
    noise = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return noise, deployed(noise)[0].argmax(dim=1), "noise"


def _threat(score: dict[str, Any], card: dict[str, Any]) -> tuple[str, float]:
    """Norm and largest strength that the model was evaluated at, or was to be."""
    known = score["scores"] or card.get("evaluation")
    if known is None or max(known["epsilons"]) == 0:
        return "Linf", EPSILON
    return known["norm"], max(known["epsilons"])


def _torch_export(deployed: Deployed, example: Images, card: str) -> bytes:
    buffer = io.BytesIO()
    with _quiet(), _traced(deployed):
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(deployed, (example,), dynamic_shapes=({0: batch},))
        torch.export.save(program, buffer, extra_files={CARD_FILE: card})
    return buffer.getvalue()


def _onnx(deployed: Deployed, example: Images, card: str) -> bytes:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError("ONNX needs more packages: pip install 'equipoise[onnx]'.") from error
    with _quiet(), _traced(deployed):
        program: Any = torch.onnx.export(
            deployed,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=deployed.outputs,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )
    program.model.metadata_props[CARD_KEY] = card
    content: bytes = program.model_proto.SerializeToString()
    return content


@contextlib.contextmanager
def _traced(deployed: Deployed) -> Iterator[None]:
    """Say which network could not be traced, whatever torch said."""
    try:
        yield
    except ImportError as error:
        raise ExportError(
            f"torch {torch.__version__} needs other packages to export ({error}): "
            "pip install --upgrade 'equipoise[onnx]'."
        ) from error
    except Exception as error:
        first = str(error).strip().splitlines()[:1]
        raise ExportError(
            f"{type(deployed.network).__name__} cannot be exported: torch could not trace it "
            f"({' '.join(first)})."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporters warn of their own deprecations and of packages that are not needed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logging.disable(before)
