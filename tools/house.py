"""Measure how easily a stranger finds the way around the code, and print the table.

Run it from the repository: ``make house``. Each row is computed from the tree; the last column says
what is wanted. docs/decisions/001-layout.md explains every row that misses its target.
"""

import ast
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import tokenize
import tomllib
import traceback
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src" / "equipoise"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINES_BEFORE, CODE_BEFORE = 25_844, 16_278
"""Lines of Python under src, and of code among them, at commit a7dff13, before the moves."""
TRANSLATED = re.compile(
    r"(?<![Tt]here\s)\b(?:is|are) no [a-z]|\bnone to\b|told apart|\banew\b|\baloud\b|\bpolitely\b"
    r"|\bon a processor\b|to the same bits|: Of (?:the|everything|a|all)\b|\bthereof\b"
)
"""Turns of phrase that read as translated. "There is no file" is plain English."""
Functions = list[tuple[int, int, str]]


def modules() -> list[Path]:
    """Every Python file of the package."""
    return sorted(SOURCES.rglob("*.py"))


def loose_modules() -> list[str]:
    """Modules at the package root, apart from the two that every package has."""
    return sorted(
        path.name
        for path in SOURCES.glob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    )


def floors() -> int:
    """Layers that import-linter holds apart."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    return len(next(c["layers"] for c in contracts if c["type"] == "layers"))


def found_in_one_guess() -> tuple[int, int]:
    """Things that are where the list of tests/one_guess.json says, and how many it names."""
    places = json.loads((ROOT / "tests" / "one_guess.json").read_text())
    hits = 0
    for path, symbol in places.values():
        file = SOURCES / path
        hits += file.exists() and bool(
            re.search(rf"^(?:def|class) {symbol}\b|^{symbol}\b.*=", file.read_text(), re.MULTILINE)
        )
    return hits, len(places)


def functions() -> Functions:
    """Lines of body without docstring, parameters without self, and place of every function."""
    measured = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = sum(argument.arg not in ("self", "cls") for argument in arguments)
            place = f"{path.relative_to(SOURCES)}:{node.name}"
            measured.append((lines, count, place))
    return measured


def files_of_a_step() -> list[str]:
    """Files on the call stack while the attack of a PGD-AT step takes its loss."""
    import torch

    from equipoise.attacks import losses
    from equipoise.cli.main import main

    stack: list[str] = []
    original = losses.cross_entropy

    def watch(*arguments: object, **settings: object) -> torch.Tensor:
        if not stack:
            frames = traceback.extract_stack()
            files = [Path(frame.filename) for frame in frames]
            inside = [f.relative_to(SOURCES) for f in files if f.is_relative_to(SOURCES)]
            stack.extend(dict.fromkeys(str(path) for path in inside))
            raise KeyboardInterrupt
        return original(*arguments, **settings)  # type: ignore[arg-type]

    losses.cross_entropy = watch  # type: ignore[assignment]
    output, errors = sys.stdout, sys.stderr
    try:
        with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
            sys.stdout = sys.stderr = nowhere
            main(["train", "pgd_at_digits", "--out", f"{folder}/run"])
    except (KeyboardInterrupt, SystemExit):
        pass
    finally:
        losses.cross_entropy = original
        sys.stdout, sys.stderr = output, errors
    return stack


def equations() -> Iterator[tuple[str, str]]:
    """Where three formulas stand, and how many lines below the head of their function."""
    for marker in ("AFA Eq. (2)", "AFS Eq. (5)", "PGD-AT"):
        places = []
        for path in modules():
            text = path.read_text().splitlines()
            for number, line in enumerate(text):
                if f"# {marker}" in line:
                    head = next(n for n in range(number, -1, -1) if re.match(r"\s*def ", text[n]))
                    places.append(
                        f"{path.relative_to(SOURCES)}, line {number - head} of its function"
                    )
        yield marker, "; ".join(places) or "not marked"


def flags(*arguments: str) -> tuple[int, int]:
    """Flags and lines that a command's help prints at 100 columns."""
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "equipoise", "train", "afa_digits", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    named = set(re.findall(r"^\W*(?:-\w, )?(--[a-z][\w.-]*)", done.stdout, re.MULTILINE))
    return len(named), len(done.stdout.splitlines())


def unset_fields() -> list[str]:
    """Fields of recipes that every recipe leaves at their defaults."""
    from equipoise.recipes import RECIPES

    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    defaults: dict[tuple[str, str], str] = {}

    def walk(value: object) -> None:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            for field in dataclasses.fields(value):
                key = type(value).__name__, field.name
                default = field.default
                if (
                    default is dataclasses.MISSING
                    and field.default_factory is not dataclasses.MISSING
                ):
                    default = field.default_factory()
                defaults[key] = repr(default)
                values[key].add(repr(getattr(value, field.name)))
                walk(getattr(value, field.name))
        elif isinstance(value, tuple | list):
            for item in value:
                walk(item)

    for make in RECIPES.values():
        walk(make())
    return [".".join(key) for key, seen in values.items() if seen == {defaults[key]}]


def without_page(fields: list[str]) -> list[str]:
    """Those of them that docs/switches.md does not name."""
    path = ROOT / "docs" / "switches.md"
    page = path.read_text() if path.exists() else ""
    return [field for field in fields if f"`{field}`" not in page]


def translated() -> int:
    """Turns of phrase in sources and pages that read as translated."""
    diary = {ROOT / "docs" / "diary.md"}
    texts = [path.read_text() for path in [*modules(), *PAGES] if path not in diary]
    return sum(len(TRANSLATED.findall(text)) for text in texts)


def code_lines(path: Path) -> int:
    """Lines of a file without blank lines, comments and docstrings."""
    text = path.read_text()
    strings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            strings |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    silent = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (*silent, tokenize.ENDMARKER):
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - strings)


def rows() -> Iterator[tuple[str, str, str]]:
    """Name, measurement and target of every row."""
    loose = loose_modules()
    yield "loose modules at the package root", f"{len(loose)}: {', '.join(loose)}", "types.py alone"
    yield "floors", str(floors()), "12 or fewer"
    hits, count = found_in_one_guess()
    yield "things where one guess looks", f"{hits} of {count}", f"{count - 1} of {count}"
    stack = files_of_a_step()
    yield "files of one PGD-AT step from the command line", str(len(stack)), "9 or fewer"
    yield "", " > ".join(stack), ""
    for marker, place in equations():
        yield f"formula of {marker}", place, "one file, near the top"
    measured = functions()
    longest, most = max(measured), max(measured, key=lambda row: row[1])
    yield "longest function", f"{longest[0]} lines ({longest[2]})", "60"
    over = [row for row in measured if row[1] > 8]
    yield "most parameters", f"{most[1]} ({most[2]}); {len(over)} functions over 8", "8"
    number, lines = flags("--help")
    yield "flags of train afa_digits --help", f"{number}, {lines} lines", "a dozen"
    number, lines = flags("--help-all")
    yield "flags of train afa_digits --help-all", f"{number}, {lines} lines", ""
    unset = unset_fields()
    bare = without_page(unset)
    yield "fields that no recipe sets", str(len(unset)), ""
    yield "of these without a page", f"{len(bare)} {', '.join(bare)}", "0"
    glossary = (ROOT / "docs" / "glossary.md").read_text()
    entries = glossary.splitlines()
    yield "glossary", f"{len(entries)} lines, {len(glossary.split())} words", "60 lines"
    yield "phrases that read as translated", str(translated()), "0"
    total = sum(len(path.read_text().splitlines()) for path in modules())
    yield "lines of src", f"{total} ({total - LINES_BEFORE:+d})", "2,500 fewer"
    code = sum(code_lines(path) for path in modules())
    yield "of them code, without docstrings", f"{code} ({code - CODE_BEFORE:+d})", ""


def main() -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("measured", "today", "wanted")
    for row in rows():
        table.add_row(*row)
    Console(width=int(os.environ.get("COLUMNS", "140"))).print(table)


if __name__ == "__main__":
    main()
