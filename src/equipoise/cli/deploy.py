"""The commands ``equipoise export``, ``predict`` and ``card``."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from equipoise.cli.options import (
    Data,
    Model,
    Number,
    Preference,
    Switch,
    Trust,
    console,
    errors,
    optional,
    print_line,
)
from equipoise.runtime.errors import InvalidInput

Size = Annotated[tuple[int, int] | None, optional("HEIGHT WIDTH")]


def export(
    model: Model,
    *,
    format: Literal["onnx", "torch-export"],
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    preference: Preference = None,
    images: Number = 64,
    data: Data = None,
    size: Size = None,
    trust: Trust = (),
) -> None:
    """Write a model and its scores to one file, and check the file against the original.

    Args:
        model: Run folder, model folder or hf://owner/name.
        format: onnx, or torch-export for a .pt2 file.
        out: File to write, FILE.onnx or FILE.pt2.
        preference: For OAT, the value of lambda to fix.
        images: Number of images to compare on, clean and attacked.
        data: Folder or file of the model's data set, if it is elsewhere on this machine.
        size: Height and width of images, for a model whose card does not give them.
        trust: Modules whose code may run to build a model that is not Equipoise's own.
    """
    export_and_print(
        model, out, trust=trust,
        form=format, preference=preference, images=images, data=data, size=size,
    )  # fmt: skip


def predict(
    model: Model,
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, optional("IMAGE...")],
    *,
    json: Switch = False,
    preference: Preference = None,
    size: Size = None,
    trust: Trust = (),
) -> None:
    """Classify image files; an AFA model also says how strongly each one looks attacked.

    Args:
        model: Run folder, model folder, hf://owner/name, or a file written by `equipoise export`.
        images: Image files, and folders of them. Files that cannot be read are named and skipped;
            the exit status is then 1.
        json: Print JSON.
        preference: For OAT, the value of lambda to fix.
        size: Height and width that images are resized to, for a model whose card does not give
            them.
        trust: Modules whose code may run to build a model that is not Equipoise's own, and .pt2
            files that may be read.
    """
    from equipoise import deployment
    from equipoise.runtime.trust import trusting

    skipped: list[str] = []
    with trusting(*trust):
        predictions = deployment.predict_images(
            model, images, preference=preference, size=size,
            skip=lambda _, reason: skipped.append(reason),
        )  # fmt: skip
    if json:
        print(deployment.predictions_as_json(predictions))
    elif predictions:
        console.print(deployment.rich_predictions(predictions))
    for reason in skipped:
        errors.print(f"skipped: {reason}", markup=False, highlight=False)
    if skipped:
        sys.exit(1)


def card(
    model: Model, *, robustbench: Annotated[Path | None, optional("FILE.json")] = None
) -> None:
    """Rewrite a model folder's README.md from its records.

    Args:
        model: Run folder or model folder.
        robustbench: Also write an entry for RobustBench's model_info to this JSON file.
    """
    from equipoise.deployment import publish

    print_line(f"card: {publish.write_card(model)}")
    if robustbench is not None:
        for note in publish.robustbench(model, robustbench):
            print_line(f"note: {note}")
        print_line(f"RobustBench entry: {robustbench}")


def export_form(file: Path) -> Literal["onnx", "torch-export"]:
    """The export format for a file name.

    Raises:
        ValueError: If the suffix is not .onnx or .pt2, or the format's libraries are not installed.
    """
    from equipoise.deployment.export import SUFFIXES

    forms = {suffix: form for form, suffix in SUFFIXES.items()}
    if file.suffix not in forms:
        raise InvalidInput(f"an exported file must end in {' or '.join(forms)}, got {file}.")
    if file.suffix == ".onnx" and None in map(find_spec, ("onnx", "onnxscript", "onnxruntime")):
        raise InvalidInput(f"writing {file} needs more libraries: pip install 'equipoise[onnx]'.")
    return forms[file.suffix]


def export_and_print(model: str, file: Path, *, trust: Sequence[str] = (), **settings: Any) -> None:
    """Export a model and print the result of the check.

    Args:
        model: As for ``deployment.export_model``.
        file: File to write.
        trust: Code that may run.
        settings: Other arguments of ``deployment.export_model``.
    """
    from equipoise import deployment
    from equipoise.runtime.trust import trusting

    settings.setdefault("form", export_form(file))
    with trusting(*trust):
        exported = deployment.export_model(model, file, **settings)
    print_line(f"{exported.path}: {exported.summary()}")
