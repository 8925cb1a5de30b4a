"""Commands that take a model out of the lab. torch is imported only when it is needed."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from equipoise.cli.options import console

Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]


def export(
    model: Model,
    format: Literal["onnx", "torch-export"],
    out: Path,
    preference: float | None = None,
    images: int = 64,
    data: Path | None = None,
    size: tuple[int, int] | None = None,
    trust: tuple[str, ...] = (),
) -> None:
    """Write a model as one file, with its scores inside, checked against the original.

    Args:
        model: Run folder, model folder or hf://owner/name.
        format: onnx, or torch-export for a .pt2.
        out: The file, FILE.onnx or FILE.pt2.
        preference: For OAT's networks: the lambda to fix.
        images: How many images to compare on, clean and attacked.
        data: Folder of the model's data set, if it lies elsewhere here.
        size: Height and width of images, for a model that does not say.
        trust: Modules whose code may be run to build a model that is not Equipoise's own.
    """
    export_and_print(
        model, out, trust=trust,
        form=format, preference=preference, images=images, data=data, size=size,
    )  # fmt: skip


def predict(
    model: Model,
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PICTURE...")],
    json: bool = False,
    preference: float | None = None,
    size: tuple[int, int] | None = None,
    trust: tuple[str, ...] = (),
) -> None:
    """Classify pictures; with AFA, say how strongly they look attacked.

    Args:
        model: Run folder, model folder, hf://owner/name, or a file that `equipoise export` wrote.
        images: PNG or JPEG files.
        json: Print JSON.
        preference: For OAT's networks: the lambda to fix.
        size: Height and width that pictures are fitted to, for a model that does not say.
        trust: Modules whose code may be run to build a model that is not Equipoise's own, and a
            .pt2 file that may be read.
    """
    from equipoise import deployment
    from equipoise.models.io.trust import trusting

    with trusting(*trust):
        found = deployment.predict_images(model, images, preference=preference, size=size)
    if json:
        print(deployment.predictions_as_json(found))
    else:
        console.print(deployment.rich_predictions(found))


def card(model: Model, robustbench: Path | None = None) -> None:
    """Write a model folder's README.md anew from its records.

    Args:
        model: Run folder or model folder.
        robustbench: Also write an entry for RobustBench's model_info, a JSON file.
    """
    from equipoise.workflows import model_card

    console.print(f"card: {model_card.write_card(model)}", highlight=False, soft_wrap=True)
    if robustbench is not None:
        for note in model_card.robustbench(model, robustbench):
            console.print(f"note: {note}", highlight=False, soft_wrap=True)
        console.print(f"RobustBench entry: {robustbench}", highlight=False, soft_wrap=True)


def export_form(file: Path) -> Literal["onnx", "torch-export"]:
    """The format that a file's ending stands for.

    Raises:
        ValueError: If it stands for none, or for one whose libraries are not installed.
    """
    from equipoise.deployment.export import SUFFIXES

    forms = {suffix: form for form, suffix in SUFFIXES.items()}
    if file.suffix not in forms:
        raise ValueError(f"an exported file ends in {' or '.join(forms)}, got {file}.")
    if file.suffix == ".onnx" and None in map(find_spec, ("onnx", "onnxscript", "onnxruntime")):
        raise ValueError(f"{file} needs more libraries: pip install 'equipoise[onnx]'.")
    return forms[file.suffix]


def export_and_print(model: str, file: Path, *, trust: Sequence[str] = (), **settings: Any) -> None:
    """Export a model and print what was checked.

    Args:
        model: As for ``deployment.export_model``.
        file: To be written.
        trust: Code that may be run.
        settings: Further arguments of ``deployment.export_model``.
    """
    from equipoise import deployment
    from equipoise.models.io.trust import trusting

    settings.setdefault("form", export_form(file))
    with trusting(*trust):
        done = deployment.export_model(model, file, **settings)
    console.print(f"{done.path}: {done.summary()}", highlight=False, soft_wrap=True)
