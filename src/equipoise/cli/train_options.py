"""Flags of ``equipoise train``: short names for common fields, and every field of the recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from equipoise.cli.options import Data, Number, Switch, Trust, optional
from equipoise.cli.values import REGISTRY
from equipoise.methods import AFA, AFS, SingleNetwork
from equipoise.recipes import Recipe
from equipoise.records.epsilon import format_epsilon
from equipoise.runtime.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Flags that do not depend on the recipe and that most people need."""

    source: Annotated[str | None, optional("NAME", name="dataset")] = None
    """Data set: digits, cifar10, cifar100, svhn, tinyimagenet, imagefolder, huggingface, npz, or
    module:function for your own."""
    data: Data = None
    """Folder or file of data; without --dataset, its format is recognised. Or module:function."""
    network: Annotated[str | None, optional("MODULE:FUNCTION[@CHECKPOINT]")] = None
    """Function that makes your own network, used in place of the recipe's, and its weights."""
    out: Annotated[Path | None, optional("FOLDER")] = None
    """Run folder; runs/NAME by default."""
    resume: Switch = False
    """Continue an interrupted run in the same folder."""
    devices: Number = 1
    """Processes per machine, one GPU or core each, that share every batch."""
    dry_run: Switch = False
    """Measure a few steps, print what the run would cost on this machine, and train nothing."""
    evaluate: Switch = False
    """After training, attack the model as the recipe says and print the table, with the weights
    that training started from if --network names some."""
    export: Annotated[Path | None, optional("FILE")] = None
    """After training, write the model and its scores to FILE.onnx or FILE.pt2."""


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Several machines, or a Ray cluster."""

    nodes: Annotated[int, tyro.conf.arg(prefix_name=False, metavar="N")] = 1
    """Number of machines."""
    strategy: Annotated[Literal["auto", "ddp"], tyro.conf.arg(prefix_name=False)] = "auto"
    """How processes share a batch; auto means ddp for several processes."""
    executor: Annotated[Literal["local", "ray"], tyro.conf.arg(prefix_name=False)] = "local"
    """Run the stages here in order, or on a Ray cluster with independent stages in parallel."""
    ray_address: Annotated[str | None, optional("ADDRESS", prefix_name=False)] = None
    """Address of the Ray cluster; by default RAY_ADDRESS, or a cluster started on this machine."""
    threads: Annotated[int | None, optional("N", prefix_name=False)] = None
    """torch threads per stage, and its cores on Ray; by default all cores here, and 1 on Ray. Only
    runs with the same number have bit-identical weights."""
    ray_gpus: Annotated[float, tyro.conf.arg(prefix_name=False, metavar="N")] = 0
    """GPUs per stage on the Ray cluster."""


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """All flags: the common ones, cluster settings and every field of the recipe."""

    trust: Trust = ()
    """Modules whose code may run because a recipe file or a saved model names it."""
    log_to: Annotated[Literal["csv", "tensorboard", "wandb", "mlflow"] | None, optional()] = None
    """Also log each epoch's losses, learning rate and validation accuracies there."""
    cluster: ClusterOptions = ClusterOptions()
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class ShortFlag:
    """A short name for one field of a recipe.

    Args:
        path: The field, as its long flag names it: ``method.schedule.epochs``.
        help: What it sets.
        metavar: Placeholder of its value in the help text.
    """

    path: str
    help: str
    metavar: str = "N"

    def default(self, recipe: Recipe) -> str:
        """The recipe's value, as the command line writes it."""
        value = reduce(getattr, self.path.replace("-", "_").split("."), recipe)
        if "EPSILON" not in self.metavar:
            return " ".join(value) if isinstance(value, tuple) else str(value)
        return " ".join(map(format_epsilon, value if isinstance(value, tuple) else (value,)))


def short_flags(recipe: Recipe, *, extractors: bool = False) -> dict[str, ShortFlag]:
    """Short flags of a recipe, by name.

    ``--epochs`` and ``--learning-rate`` set the main training stage: stage I of AFA, each extractor
    of AFS, or the merger if AFS stacks extractors that are already trained.

    Args:
        recipe: The recipe.
        extractors: Whether the command line names extractors to stack.
    """
    method = recipe.method
    stacks = isinstance(method, AFS) and (extractors or bool(method.extractors))
    schedule = "method.merger-schedule" if stacks else "method.schedule"
    epochs, rate = "Training epochs.", "Highest learning rate."
    if isinstance(method, AFA):
        epochs = "Epochs of stage I (stage II: --method.gate-schedule)."
        rate = "Highest learning rate of stage I."
    elif isinstance(method, AFS):
        stage = "the merger" if stacks else "each extractor"
        epochs = f"Epochs of {stage}" + ("." if stacks else " (merger: --method.merger-schedule).")
        rate = f"Highest learning rate of {stage}."
    flags = {
        "--epochs": ShortFlag(f"{schedule}.epochs", epochs),
        "--batch-size": ShortFlag("loop.batch-size", "Images per step."),
        "--learning-rate": ShortFlag(f"{schedule}.learning-rate", rate, "RATE"),
        **_strength(recipe, stacks),
        "--seed": ShortFlag("seed", "Random seed for weights, data order and attacks."),
        "--name": ShortFlag("name", "Name of the run folder and of its records.", "NAME"),
    }
    if isinstance(method, AFS):
        text = "Trained networks to stack, in place of training extractors."
        flags["--extractors"] = ShortFlag("method.extractors", text, "MODEL...")
    return flags


def _strength(recipe: Recipe, stacks: bool) -> dict[str, ShortFlag]:
    method = recipe.method
    many, single = "EPSILON...", "EPSILON"
    if isinstance(method, AFA):
        text = "Attack strength of each branch, ascending from 0."
        return {"--strengths": ShortFlag("method.strengths", text, many)}
    if isinstance(method, AFS) and not stacks:
        text = "Attack strength of each extractor."
        return {"--budgets": ShortFlag("method.budgets", text, many)}
    if isinstance(method, SingleNetwork) and method.random_budgets:
        text = "Attack strengths, one of which is drawn for each image."
        return {"--random-budgets": ShortFlag("method.random-budgets", text, many)}
    field = "merger-epsilon" if isinstance(method, AFS) else "epsilon"
    text = "Attack strength in training and validation, such as 8/255."
    return {"--epsilon": ShortFlag(f"method.{field}", text, single)}


def expand(arguments: list[str], recipe: Recipe, flags: Mapping[str, ShortFlag]) -> list[str]:
    """Replace short flags by the long flags that they stand for.

    Raises:
        ValueError: If ``--epsilon`` is given for a recipe that trains at several strengths.
    """
    expanded = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name == "--epsilon" and name not in flags:
            (several,) = _strength(recipe, stacks=False)
            strengths = flags[several].default(recipe)
            raise InvalidInput(
                f"{recipe.name} trains at several strengths, so --epsilon does not apply. Use "
                f"{several}, such as {several} {strengths}."
            )
        long = f"--{flags[name].path}" if name in flags else name
        expanded.append(f"{long}{equals}{value}")
    return expanded


def describe(recipe: Recipe, flags: Mapping[str, ShortFlag]) -> str:
    """Description above all flags: what the short flags stand for."""
    short = ", ".join(f"{n} for --{f.path}" for n, f in flags.items() if n != f"--{f.path}")
    return f"Train the recipe {recipe.name}. Every field of it is a flag. Short flags: {short}."


def print_common_help(prog: str, recipe: Recipe, flags: Mapping[str, ShortFlag]) -> None:
    """Print the help text of the common flags, and exit."""
    fields: list[Any] = [
        (
            name.removeprefix("--").replace("-", "_"),
            Annotated[
                str,
                tyro.conf.arg(
                    metavar=flag.metavar,
                    help=flag.help,
                    help_behavior_hint=_shown_default(flag.default(recipe)),
                ),
            ],
            "",
        )
        for name, flag in flags.items()
    ]
    flatten = tyro.conf.arg(name="")
    short = make_dataclass("ShortFlags", fields, frozen=True)
    every = Annotated[
        bool, tyro.conf.arg(help="Show every flag, in groups.", help_behavior_hint="")
    ]
    last = make_dataclass("HelpFlag", [("help_all", every, False)], frozen=True)
    parts: Mapping[str, Any] = {"short": short, "common": CommonOptions, "last": last}
    shown = make_dataclass(
        "CommonFlags", [(name, Annotated[part, flatten]) for name, part in parts.items()]
    )
    tyro.cli(
        shown,
        prog=prog,
        description=f"Train the recipe {recipe.name}. --help-all shows every flag.",
        args=["--help"],
        config=(tyro.conf.FlagCreatePairsOff,),
        registry=REGISTRY,
    )


def _shown_default(value: str) -> str:
    return f"(default: {value})" if value else ""
