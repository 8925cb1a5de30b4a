"""The command line. torch is imported only when it is needed."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from equipoise.cli_after import evaluate_and_print
from equipoise.cli_deploy import card, export, predict
from equipoise.cli_reproduce import reproduce
from equipoise.cli_train import Sources, stopped, train_recipe
from equipoise.epsilon import Epsilons
from equipoise.signals import INTERRUPTED, REQUEUE, Interrupted, Terminated, end_on_sigterm

Suites = Literal["quick", "tables", "paper", "standard", "autoattack", "adaptive", "transfer"]
Records = Annotated[
    tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RECORD_OR_FOLDER...")
]
_console = Console()
_errors = Console(stderr=True, soft_wrap=True)


def demo(out: Path = Path("runs/demo"), seed: int = 0) -> None:
    """Train four models on handwritten digits, attack them at five strengths, print one table.

    Takes a few minutes on two cores. Run again, it re-uses what is there.

    Args:
        out: Folder for runs, records and models.
        seed: Of everything random.
    """
    from equipoise import jobs
    from equipoise.report import rich_table
    from equipoise.terminal import Terminal

    try:
        with Terminal(_console) as terminal:
            records = jobs.demo(out, seed=seed, reporter=terminal.of)
    except Interrupted:
        stopped(f"equipoise demo --out {out} --seed {seed}")
    _console.print(rich_table(records, "Who keeps both accuracies?"))
    _console.print(f"Models, records and metrics are under {out}.", highlight=False)


def list_recipes(
    words: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="WORD...")] = (),
) -> None:
    """Name every recipe, with what it trains.

    Args:
        words: Only those with all of these words in name, group or description: afs paper.
    """
    from rich.table import Table

    from equipoise.recipes import GROUPS

    table = Table("recipe", "what it trains")
    for group, recipes in GROUPS.items():
        rows = [(make.__name__, (make.__doc__ or "").splitlines()[0]) for make in recipes]
        found = [
            each
            for each in rows
            if all(word.lower() in " ".join((group, *each)).lower() for word in words)
        ]
        if found:
            table.add_row(f"[bold]{group}")
            for name, says in found:
                table.add_row(name, says)
            table.add_section()
    if not table.row_count:
        raise ValueError(f"no recipe has the words {' '.join(words)}; `equipoise list` names all.")
    _console.print(table)


def train(
    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")],
) -> None:
    """Train a recipe. `equipoise train RECIPE --help` shows every field it lets you change.

    Args:
        recipe: A name of `equipoise list`, an earlier run's folder or recipe.json, or `afs` to
            stack saved models: `equipoise train afs --extractors runs/a runs/b`.
    """
    raise AssertionError("parsed by train_recipe")


def evaluate(
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")],
    epsilons: Epsilons = (),
    suite: tuple[Suites, ...] | None = None,
    steps: int | None = None,
    restarts: int | None = None,
    images: int | None = None,
    part: Literal["test", "validation"] | None = None,
    norm: Literal["Linf", "L2"] | None = None,
    dataset: Sources | None = None,
    data: Path | None = None,
    size: int | None = None,
    surrogates: tuple[str, ...] = (),
    logits: str | None = None,
    trust: tuple[str, ...] = (),
    preferences: tuple[float, ...] = (),
    search_precision: Literal["32-true", "bf16-mixed"] = "32-true",
    order: Literal["ascending", "descending"] = "ascending",
    self_checks: bool = True,
    workers: int = 1,
    seed: int = 0,
    batch_size: int = 256,
) -> None:
    """Attack models at many strengths and print one table; a record is written beside each.

    Stopped or killed, the same command goes on; with more strengths or suites it re-uses what is
    known.

    Args:
        models: Run folders, model folders, hf://owner/name, module:function, ONNX or torch.export
            files.
        epsilons: Strengths such as 0 1/255 2/255 4/255 8/255; the recipe's by default.
        suite: Attacks to try, in order; the recipe's by default.
        steps: Steps of each search of quick, adaptive and transfer.
        restarts: Random restarts of quick.
        images: Only so many: the first ones, or evenly spaced ones of images sorted by class.
        part: "validation" for the images held out of training, on which settings are chosen.
        norm: Geometry of the threat.
        dataset: Data for a model that does not say on what it was trained.
        data: Folder or file of the data set, if it lies elsewhere here.
        size: With --dataset imagefolder: bring images to so many pixels a side.
        surrogates: Models that the suite transfer attacks in the model's place.
        logits: Which part of the model's answer holds the logits: a key, a place, or binary.
        trust: Modules whose code may be run to build a network that Equipoise did not write, and
            .pt2 files that may be read.
        preferences: For OAT's networks: evaluate at each of these lambdas; one record each.
        search_precision: Of the searches; scores are float32 always.
        order: Descending begins at the strongest epsilon: much faster on robust models, as an image
            that nothing breaks there is not attacked below.
        self_checks: Look for signs that the score is too good.
        workers: Processes among which batches of images are shared out.
        seed: Of the attacks.
        batch_size: Images attacked at once.
    """
    from equipoise import jobs

    if not models:
        raise ValueError("evaluate needs at least one model, got none.")
    if size is not None and dataset is None:
        raise ValueError("--size is for images named by --dataset imagefolder; name them.")
    changes = {
        "epsilons": epsilons or None, "suites": suite, "steps": steps, "restarts": restarts,
        "images": images, "part": part, "norm": norm,
    }  # fmt: skip
    source = jobs.named_source(dataset, data, size) if dataset is not None else None
    evaluate_and_print(
        models,
        preferences or (None,),
        changes={name: value for name, value in changes.items() if value is not None},
        dataset=source.load() if source is not None else None,
        data=data,
        seed=seed,
        batch_size=batch_size,
        surrogates=surrogates,
        logits=logits,
        trust=trust,
        search_precision=search_precision,
        order=order,
        checks=self_checks,
        workers=workers,
    )


def compare(records: Records) -> None:
    """Compare models image by image: is one better than the first, or not told apart?

    Args:
        records: Record files, or folders that hold some. All others are compared with the first, so
            name the baseline first.
    """
    from equipoise.report import rich_comparison

    title = "Compared image by image with the first"
    _console.print(rich_comparison([record for _, record in _records(records)], title))


def report(
    records: Records,
    suite: Suites | None = None,
    into: Path | None = None,
    out: Path | None = None,
    gallery: int = 0,
    data: Path | None = None,
    trust: tuple[str, ...] = (),
) -> None:
    """Print one table from records, write a page or a picture, or renew tables in a Markdown file.

    Args:
        records: Record files, or folders that hold some.
        suite: Show this suite attack by attack as well.
        into: A Markdown file with `<!-- records: FOLDER -->` markers; every table in it is renewed.
        out: Write one self-contained HTML page to this file, or the curves alone to a .svg, .png
            or .pdf.
        gallery: First make pictures of so many attacked images with the models beside the records,
            for the page.
        data: Folder of the data set for those pictures, if it lies elsewhere here.
        trust: Modules whose code may be run to build a model for them that is not Equipoise's own.
    """
    from equipoise.report import fill_markers, rich_checks, rich_columns, rich_table

    if gallery and out is None:
        raise ValueError("--gallery makes pictures for a page; name the page with --out.")
    if into is not None:
        changed = fill_markers(into)
        _console.print(f"{into} {'renewed' if changed else 'was up to date'}.", highlight=False)
    pairs = _records(records)
    found = [record for _, record in pairs]
    if found:
        _console.print(rich_table(found, "Worst case per image"))
        if suite is not None:
            _console.print(rich_columns(found, "Attack by attack", suite))
        _console.print(rich_checks(*found))
        if gallery:
            from equipoise.gallery import write_galleries
            from equipoise.models.trust import trusting

            with trusting(*trust):
                write_galleries(pairs, gallery, data)
        if out is not None:
            from equipoise.report.curves import ENDINGS, write_curves
            from equipoise.report.page import write_page

            if out.suffix in ENDINGS:
                write_curves(found, out)
            else:
                write_page(pairs, out)
            kind = "curves" if out.suffix in ENDINGS else "page"
            _console.print(f"{kind}: {out}", highlight=False)
    elif into is None:
        raise ValueError("report found no record; name record files or a folder that holds some.")


def _records(places: tuple[Path, ...]) -> list[tuple[Path, dict[str, Any]]]:
    from equipoise import runs

    found: list[tuple[Path, dict[str, Any]]] = []
    for place in places:
        if place.is_dir():
            found += runs.iterate_records(place)
        else:
            found.append((place, runs.read_record(place)))
    return found


COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "list": list_recipes,
    "train": train,
    "evaluate": evaluate,
    "report": report,
    "compare": compare,
    "export": export,
    "predict": predict,
    "card": card,
    "reproduce": reproduce,
}


def main(arguments: list[str] | None = None) -> None:
    """Parse and run; a mistake of the user's ends in one clear message and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with end_on_sigterm():
            _run(arguments)
    except KeyboardInterrupt as error:
        if arguments[:1] == ["evaluate"]:
            _errors.print("stopped; what was found is kept: the same command goes on.")
        sys.exit(REQUEUE if isinstance(error, Terminated) else INTERRUPTED)
    except BrokenPipeError:  # who reads, such as head, has seen enough; nothing is left to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)  # as rich's console does
    except (ValueError, RuntimeError) as error:
        # Our own refusals are ValueErrors and RunErrors; anything else keeps its trace.
        if not _is_refusal(error):
            raise
        _errors.print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)


def _run(arguments: list[str]) -> None:
    if arguments == ["--version"]:
        from equipoise.runs import version

        print(f"equipoise {version('equipoise')}")
    elif arguments[:1] == ["train"] and arguments[1:2] and not arguments[1].startswith("-"):
        train_recipe(arguments[1], arguments[2:])
    else:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="equipoise",
            description="Classifiers that stay accurate on clean images and under attack.",
            args=arguments,
        )


def _is_refusal(error: Exception) -> bool:
    from equipoise.runs import RunError

    if isinstance(error, RunError):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return isinstance(error, ValueError) and raised_in.split(".")[0] == "equipoise"
