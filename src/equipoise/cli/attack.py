"""The command ``equipoise attack``."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from equipoise.cli.options import Sources, Suites, console, optional, print_line
from equipoise.records.epsilon import Epsilons
from equipoise.runtime.errors import InvalidInput

Count = Annotated[int | None, optional("N")]


@dataclass(frozen=True, kw_only=True)
class AttackFlags:
    """Flags of ``equipoise attack``.

    Args:
        out: Folder to write; new, empty, or of an earlier run of the same command.
        png: Also write 8-bit PNG files. Each is scored again; where rounding saves an image, 8-bit
            images inside the threat are attacked.
        epsilons: Attack strengths, such as 8/255; by default the recipe's. Each one above 0 gets a
            file.
        suite: Attack suites, in order: quick, tables, paper, standard, autoattack, adaptive,
            transfer. By default the recipe's.
        steps: Steps per search in the suites quick, adaptive and transfer.
        restarts: Random restarts in the suite quick.
        images: Attack N images: the first ones, or evenly spaced ones if images are sorted by
            class.
        part: test, or validation for the images held out of training.
        norm: Norm of the threat, Linf or L2.
        dataset: Data set, for a model that does not name the one it was trained on: digits,
            cifar10, cifar100, svhn, tinyimagenet, imagefolder or npz.
        data: Folder or file of the data set, if it is elsewhere on this machine.
        size: With --dataset imagefolder, resize images to this height and width.
        surrogates: Models that the suite transfer attacks in place of this one.
        logits: Which part of the model's output holds the logits: a key, an index, or binary.
        trust: Modules whose code may run to build an external network, and .pt2 files that may be
            read.
        preference: For OAT, the value of lambda to attack at.
        workers: Processes that share the batches.
        seed: Random seed for the attacks.
        batch_size: Images attacked at once.
    """

    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    png: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    epsilons: Annotated[Epsilons, optional("EPSILON...")] = ()
    suite: Annotated[tuple[Suites, ...] | None, optional("SUITE...")] = None
    steps: Count = None
    restarts: Count = None
    images: Count = None
    part: Annotated[Literal["test", "validation"] | None, optional("PART")] = None
    norm: Annotated[Literal["Linf", "L2"] | None, optional("NORM")] = None
    dataset: Annotated[Sources | None, optional("NAME")] = None
    data: Annotated[Path | None, optional("PATH")] = None
    size: Annotated[int | None, optional("PIXELS")] = None
    surrogates: Annotated[tuple[str, ...], optional("MODEL...")] = ()
    logits: Annotated[str | None, optional("KEY")] = None
    trust: Annotated[tuple[str, ...], optional("MODULE...")] = ()
    preference: Annotated[float | None, optional("LAMBDA")] = None
    workers: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    batch_size: Annotated[int, tyro.conf.arg(metavar="N")] = 256

    def choices(self) -> dict[str, Any]:
        """Return the flags that were given, as keyword arguments of ``api.attack``."""
        elsewhere = ("out", "png", "dataset", "data", "size", "suite", "epsilons")
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in elsewhere}
        given |= {"epsilons": self.epsilons or None, "suites": self.suite}
        return {name: value for name, value in given.items() if value is not None}


def attack(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    options: Annotated[AttackFlags, tyro.conf.OmitArgPrefixes],
) -> None:
    """Attack a model and write its adversarial images: one .npz file for each strength.
    The attacks are those of `equipoise evaluate`, whose results are reused.

    Args:
        model: A run folder, a model folder, hf://owner/name, module:function, an ONNX file or a
            torch.export file.
        options: What to attack, and how.
    """
    from equipoise.api.attack import attack
    from equipoise.api.datasets import named_source
    from equipoise.runtime.progress import Terminal

    if options.size is not None and options.dataset is None:
        raise InvalidInput("--size needs --dataset imagefolder; add it, or leave --size out.")
    source = None
    if options.dataset is not None:
        source = named_source(options.dataset, options.data, options.size)
    with Terminal(console) as terminal:
        metadata = attack(
            model,
            options.out,
            png=options.png,
            dataset=source.load() if source is not None else None,
            data=options.data,
            reporter=terminal,
            **options.choices(),
        )
    for strength in metadata["strengths"]:
        print_line(strength_line(strength))
    print_line(f"images: {options.out}")


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
