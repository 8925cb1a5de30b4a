"""Export a saved model as one file for other programs, and verify it against the original."""

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
from equipoise.attacks.threat import THREATS
from equipoise.data import DataError, Split, as_split
from equipoise.deployment import publish
from equipoise.deployment.latency import latency_sentence, measure_latency
from equipoise.evaluation.cache import images_hash
from equipoise.models import AdaptiveNetwork
from equipoise.models.afa.layer_placement import first_convolution
from equipoise.models.attack_mode.context import attack_mode
from equipoise.models.conditional_network import FixedPreference
from equipoise.models.copied import copied
from equipoise.models.io.exported import CARD_FILE, CARD_KEY
from equipoise.models.io.external import load_external
from equipoise.models.io.model_folder import home_of
from equipoise.models.io.model_source import (
    LoadedModel,
    at_preference,
    find_model,
    loaded_module,
)
from equipoise.recipes.datasets import source_of
from equipoise.records.epsilon import format_epsilon
from equipoise.report.score_card import score_card
from equipoise.runtime.environment import commit
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import write_bytes, write_json
from equipoise.runtime.run_folder import RunFolder
from equipoise.types import Images, Labels

Format = Literal["onnx", "torch-export"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
TOLERANCE = 1e-4
"""Largest difference between file and original; see ``difference``."""
EPSILON = 8 / 255
"""Strength of the verification's attack if neither record nor recipe gives one."""


class ExportError(RunError):
    """A model that cannot be exported; the message gives the reason."""


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """An exported file, and how its outputs compare with the original model's.

    Args:
        path: Path of the file.
        card: Its score card.
        images: Number of images compared, once clean and once adversarial.
        source: Source of the images.
        epsilon: Strength of the adversarial images, in pixel units.
        difference_clean: Largest difference of any output on clean images; see ``difference``.
        difference_adversarial: Largest difference of any output on adversarial images.
    """

    path: Path
    card: dict[str, Any]
    images: int
    source: str
    epsilon: float
    difference_clean: float
    difference_adversarial: float

    def summary(self) -> str:
        """Describe the comparison, the scores in the file, and the cost of inference."""
        scores = self.card["scores"]
        contents = (
            "The file contains no scores, because the model has no record yet."
            if scores is None
            else f"The file contains the scores on {scores['images']} test images of "
            f"{scores['data']}."
        )
        return (
            f"outputs differ from the original's by at most {self.difference_clean:.2g} on "
            f"{self.images} images ({self.source}) and {self.difference_adversarial:.2g} on the "
            f"same images attacked at {format_epsilon(self.epsilon)}. {contents}"
            + ("" if scores is None or not scores["warning"] else f" Warning: {scores['warning']}")
            + f" {latency_sentence(self.card['latency'])}"
        )


class DeployedModel(nn.Module):
    """Module that is exported: maps images to a tuple of outputs.

    Args:
        network: A model in eval mode.

    Shape:
        Images ``(batch, channel, height, width)`` in [0, 1] to logits ``(batch, classes)`` and, for
        AFA, W1 ``(batch,)``, the weight of the robust branch.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> deployed = DeployedModel(network.eval())
        >>> deployed.outputs, deployed(torch.zeros(2, 1, 8, 8))[0].shape
        (['logits'], torch.Size([2, 10]))
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.outputs = ["logits"] + (["w1"] if isinstance(network, AdaptiveNetwork) else [])

    def forward(self, images: Images) -> tuple[Tensor, ...]:
        """Compute all outputs."""
        if isinstance(self.network, AdaptiveNetwork):
            logits, weight = self.network.logits_and_weight(images)
            return logits, 1 - weight
        return (self.network(images),)


def export_model(
    model: str | Path | nn.Module,
    file: Path | str,
    *,
    form: Format | None = None,
    preference: float | None = None,
    images: int = 64,
    data: Any = None,
    size: tuple[int, int] | None = None,
) -> ExportedFile:
    """Write a model as an ONNX or ``torch.export`` file that contains its score card.

    The file is verified before it is kept: it is read back, and its outputs are compared with the
    original model's on clean images and on adversarial images made on the original.

    Args:
        model: A run folder, a model folder, ``hf://owner/name``, or a network in eval mode.
        file: File to write; it must end in ``.onnx`` or ``.pt2``.
        form: ``"onnx"``, or ``"torch-export"`` for a ``.pt2`` file; by default as ``file`` ends.
        preference: For a conditional network (OAT), the lambda to fix; its default if ``None``.
        images: Number of images to compare: test images of the model's data set, or noise if the
            data set is not available.
        data: Folder of the data set, if it has moved; for a network, labelled images as for
            ``as_split``, from which the first are compared.
        size: Height and width of images, for a folder that does not specify them.

    Returns:
        The file, its score card and the differences found.

    Raises:
        ExportError: If the ending is wrong, the network cannot be traced, or outputs differ by more
            than ``TOLERANCE``; then no file is written.
        RunError: If the model cannot be loaded, or the file cannot be written.

    Example:
        >>> file = Path("demo.pt2")
        >>> done = export_model("runs/demo", file, form="torch-export")  # doctest: +SKIP
        >>> done.difference_clean < TOLERANCE  # doctest: +SKIP
        True
    """
    file = Path(file)
    if form is None:
        form = "torch-export" if file.suffix == SUFFIXES["torch-export"] else "onnx"
    if file.suffix != SUFFIXES[form]:
        raise ExportError(f"a file of {form} must end in {SUFFIXES[form]}, got {file}.")
    if images < 2:
        raise ExportError(f"images must be 2 or more, got {images}.")
    loaded, split = _loaded(model, data)
    network, name = at_preference(loaded.network, loaded.name, preference)
    fixed = network.preference if isinstance(network, FixedPreference) else None
    shape = image_shape(loaded, size) if split is None else tuple(split.images.shape[1:])
    deployed = DeployedModel(network.requires_grad_(False)).eval()
    latency = measure_latency(network, shape)
    record = None if loaded.folder is None else publish.record_at(loaded.folder, fixed)
    card = score_card(loaded.card, record) | {
        "name": name,
        "image_shape": list(shape),
        "outputs": deployed.outputs,
        "exported_by": commit(),
        "latency": latency,
    }
    if split is None:
        clean, labels, source = _examples(deployed, loaded, shape, images, data)
    else:
        clean, labels = split.first(images).batch(slice(None))
        source = f"data in memory, {images_hash(split)[:12]}"
    norm, epsilon = _threat(card, loaded.card)
    with attack_mode(network):
        goal = margin(lambda batch: deployed(batch)[0], labels)
        search = PGD(steps=10, relative_step=0.25, keep="best")
        adversarial = search(goal, clean, THREATS[norm](epsilon), torch.Generator().manual_seed(0))
    content = (_onnx if form == "onnx" else _torch_export)(deployed, clean[:2], json.dumps(card))
    on_clean, on_adversarial = _differences(content, file.suffix, deployed, (clean, adversarial))
    if not max(on_clean, on_adversarial) <= TOLERANCE:  # also if one of them is NaN
        raise ExportError(
            f"outputs of the {form} file must differ from the original's by at most "
            f"{TOLERANCE:g}, got {on_clean:.2g} on clean and {on_adversarial:.2g} on adversarial "
            f"images; {file} was not written. Try the other format."
        )
    write_bytes(file, content)
    if loaded.folder is not None and home_of(loaded.folder) == loaded.home:
        write_json(RunFolder(loaded.home).latency, latency)
        publish.write_card(loaded.folder)
    return ExportedFile(
        path=file,
        card=card,
        images=len(clean),
        source=source,
        epsilon=epsilon,
        difference_clean=on_clean,
        difference_adversarial=on_adversarial,
    )


def _loaded(model: str | Path | nn.Module, data: Any) -> tuple[LoadedModel, Split | None]:
    """The model, and the images that were passed with a network in memory."""
    if isinstance(model, nn.Module):
        if data is None:
            raise ExportError(
                f"{type(model).__name__} does not name its data; pass labelled images with data=, "
                "on which the file is compared with it."
            )
        return loaded_module(copied(model)), as_split(data)  # the copy will be frozen
    loaded = find_model(str(model))
    if loaded.folder is None:
        raise ExportError(f"{model} must be a model folder to be exported; name a folder.")
    return loaded, None


def image_shape(loaded: LoadedModel, size: tuple[int, int] | None = None) -> tuple[int, ...]:
    """Channels, height and width of the images that a model takes.

    Args:
        loaded: A model from a folder.
        size: Height and width, which override the folder's.

    Returns:
        The shape from the model's card, or from its data set: older folders do not hold it.

    Raises:
        RunError: If the size is unknown or not positive.
    """
    if size is not None:
        if min(size) < 1:
            raise RunError(f"--size must be two numbers of 1 or more, got {size}.")
        return first_convolution(loaded.network).in_channels, *size
    if "image_shape" in loaded.card:
        return tuple(int(number) for number in loaded.card["image_shape"])
    try:
        return source_of(loaded.card, None).load().image_shape
    except ValueError as error:  # DataError is one
        raise RunError(
            f"{loaded.name} does not specify the size of its images; give it with "
            "--size HEIGHT WIDTH."
        ) from error


def difference(exported: Any, deployed: DeployedModel, images: Images) -> float:
    """Largest difference of any output between an exported file and the original model.

    A difference is relative to the output's largest absolute value, and absolute if that value is
    below 1. The first image is passed alone and the others together, so that a file with a fixed
    batch size fails here.

    Args:
        exported: The file, loaded; its method ``outputs`` returns all outputs.
        deployed: The original model.
        images: Two or more images.

    Returns:
        The difference; NaN if an output is NaN.
    """
    largest = []
    with torch.no_grad():
        for batch in (images[:1], images[1:]):
            pairs = zip(exported.outputs(batch), deployed(batch), strict=True)
            largest += [
                (actual - expected).abs().max() / expected.abs().max().clamp_min(1.0)
                for actual, expected in pairs
            ]
    return float(torch.stack(largest).max())


def _differences(
    content: bytes, suffix: str, deployed: DeployedModel, batches: tuple[Images, ...]
) -> list[float]:
    """Read an exported file back and compare it with the original on each batch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"exported{suffix}"
        write_bytes(path, content)
        exported = load_external(str(path), trust=[str(path)])
        return [difference(exported, deployed, images) for images in batches]


def _examples(
    deployed: DeployedModel,
    loaded: LoadedModel,
    shape: tuple[int, ...],
    count: int,
    data: Path | None,
) -> tuple[Images, Labels, str]:
    """Test images of the model's data set, or noise labelled with the model's own predictions."""
    with contextlib.suppress(DataError, ValueError):
        dataset = source_of(loaded.card, data).load()
        if dataset.image_shape == shape:
            split = dataset.test.first(count)
            return *split.batch(slice(None)), f"{dataset.name} ({images_hash(split)[:12]})"
    noise = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return noise, deployed(noise)[0].argmax(dim=1), "noise"


def _threat(score: dict[str, Any], card: dict[str, Any]) -> tuple[str, float]:
    """Norm and strongest strength of the model's evaluation, made or planned."""
    evaluation = score["scores"] or card.get("evaluation")
    if evaluation is None or max(evaluation["epsilons"]) == 0:
        return "Linf", EPSILON
    return evaluation["norm"], max(evaluation["epsilons"])


def _torch_export(deployed: DeployedModel, example: Images, card: str) -> bytes:
    buffer = io.BytesIO()
    with _quiet(), _trace_errors(deployed):
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(deployed, (example,), dynamic_shapes=({0: batch},))
        torch.export.save(program, buffer, extra_files={CARD_FILE: card})
    return buffer.getvalue()


def _onnx(deployed: DeployedModel, example: Images, card: str) -> bytes:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"ONNX export needs {error.name}, which is not installed: pip install "
            "'equipoise[onnx]'."
        ) from error
    with _quiet(), _trace_errors(deployed):
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
def _trace_errors(deployed: DeployedModel) -> Iterator[None]:
    """Context manager that turns torch's errors into one that names the network."""
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
    """Context manager that hides warnings of torch's exporters.

    They warn about their own deprecations and about packages that are not needed.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logging.disable(before)
