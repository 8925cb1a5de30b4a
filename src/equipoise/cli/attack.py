"""The command ``equipoise attack``."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from equipoise.cli.options import (
    Count,
    Data,
    Folder,
    Model,
    Number,
    Preference,
    Trust,
    console,
    optional,
    print_line,
)
from equipoise.records.epsilon import Epsilons

if TYPE_CHECKING:
    from equipoise.data import DataSet


@dataclass(frozen=True, kw_only=True)
class AttackFlags:
    """What to attack, and how: flags of ``equipoise attack`` and ``equipoise evaluate``.

    Args:
        epsilons: Attack strengths, such as 0 1/255 2/255 4/255 8/255; by default the recipe's.
        suites: Attack suites, in order: quick, tables, paper, standard, autoattack, adaptive,
            ratios, queries, transfer, or module:function for your own attacks. By default the
            recipe's.
        steps: Steps per search in the suites quick, adaptive and transfer.
        restarts: Random restarts in the suite quick.
        images: Attack N images: the first ones, or evenly spaced ones if images are sorted by
            class.
        part: test, or validation for the images held out of training; choose settings on those.
        norm: Norm of the threat, Linf or L2.
        dataset: Data set, other than the one that the model was trained on: digits, cifar10,
            cifar100, svhn, tinyimagenet, imagefolder, huggingface, npz, or module:function.
        data: Folder or file of data, whose format is recognised, or module:function.
        size: With a folder of images, resize them to this height and width.
        surrogates: Models that the suite transfer attacks in place of MODEL.
        logits: Which part of the model's output holds the logits: a key, an index, or binary.
        trust: Modules whose code may run because a model or its recipe names it, and .pt2 files
            that may be read.
        workers: Processes that share the batches.
        seed: Random seed for the attacks.
        batch_size: Images attacked at once.
    """

    epsilons: Annotated[Epsilons, optional("EPSILON...")] = ()
    suites: Annotated[tuple[str, ...] | None, optional("SUITE...", name="suite")] = None
    steps: Count = None
    restarts: Count = None
    images: Count = None
    part: Annotated[Literal["test", "validation"] | None, optional("PART")] = None
    norm: Annotated[Literal["Linf", "L2"] | None, optional("NORM")] = None
    dataset: Annotated[str | None, optional("NAME")] = None
    data: Data = None
    size: Annotated[int | None, optional("PIXELS")] = None
    surrogates: Annotated[tuple[str, ...], optional("MODEL...")] = ()
    logits: Annotated[str | None, optional("KEY")] = None
    trust: Trust = ()
    workers: Number = 1
    seed: Number = 0
    batch_size: Number = 256

    def choices(self) -> dict[str, Any]:
        """Return the flags that were given, as ``EvaluationChoices``."""
        from equipoise.api.evaluation_settings import EvaluationChoices

        given = {name: getattr(self, name, None) for name in EvaluationChoices.__annotations__}
        given["epsilons"] = self.epsilons or None
        return {name: value for name, value in given.items() if value is not None}

    def load_dataset(self) -> "DataSet | None":
        """Load the data set of ``--dataset`` or ``--size``, if one of them is given."""
        from equipoise.recipes.datasets import named_source
        from equipoise.runtime.trust import names_function, trusting

        if self.dataset is None and self.size is None:
            return None
        named_here = [str(name) for name in (self.dataset, self.data) if names_function(name)]
        with trusting(*self.trust, *named_here):
            return named_source(self.dataset, self.data, self.size).load()


def attack(
    model: Model,
    options: Annotated[AttackFlags, tyro.conf.OmitArgPrefixes],
    *,
    out: Folder,
    png: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    preference: Preference = None,
) -> None:
    """Attack a model and write its adversarial images: one .npz file for each strength above 0.
    The attacks are those of `equipoise evaluate`, whose results are reused.

    Args:
        model: A run folder, a model folder, hf://owner/name, module:function[@CHECKPOINT], an
            ONNX file or a torch.export file.
        options: What to attack, and how.
        out: Folder to write; new, empty, or of an earlier run of the same command.
        png: Also write 8-bit PNG files. Each is scored again; where rounding saves an image, 8-bit
            images inside the threat are attacked.
        preference: For OAT, the value of lambda to attack at.
    """
    from equipoise.api.attack import attack
    from equipoise.runtime.progress import Terminal

    dataset = options.load_dataset()
    with Terminal(console) as terminal:
        metadata = attack(
            model,
            out,
            png=png,
            dataset=dataset,
            data=options.data,
            preference=preference,
            reporter=terminal,
            **options.choices(),
        )
    for strength in metadata["strengths"]:
        print_line(strength_line(strength))
    print_line(f"images: {out}")


def strength_line(strength: dict[str, Any]) -> str:
    """Describe the images of one strength in one line.

    Args:
        strength: Entry of ``strengths`` in ``metadata.json``.

    Example:
        >>> entry = {"epsilon_written": "8/255", "broken": 70, "images": 100}
        >>> strength_line(entry)
        '8/255: 70 of 100 images fool the model'
        >>> strength_line(entry | {"broken_png": 69, "broken_png_by_rounding": 61})
        '8/255: 70 of 100 images fool the model; as PNG 69, 61 of them by rounding alone'
    """
    line = (
        f"{strength['epsilon_written']}: {strength['broken']} of {strength['images']} images fool "
        "the model"
    )
    if "broken_png" not in strength:
        return line
    return (
        f"{line}; as PNG {strength['broken_png']}, {strength['broken_png_by_rounding']} of them "
        "by rounding alone"
    )
