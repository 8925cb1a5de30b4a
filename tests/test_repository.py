"""The repository keeps its own promises: exports, docstrings, file sizes, paper map, README."""

import ast
import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path

import pytest
import tiny

import equipoise
from equipoise.data import Digits
from equipoise.report import fill_markers

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "equipoise"
SOURCES = sorted(SOURCE.rglob("*.py"))
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(equipoise.__path__, "equipoise.")
    if not module.name.endswith("__main__")
)
PACKAGES = ["equipoise", *(m for m in MODULES if hasattr(importlib.import_module(m), "__path__"))]
PAGES = [path for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")) if path.exists()]
README = ROOT / "README.md"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def defined(module_name: str):
    """Public classes and functions that a module defines itself, as (name, value)."""
    module = importlib.import_module(module_name)
    for name, value in vars(module).items():
        if name.startswith("_") or not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        if value.__module__ == module_name:
            yield f"{module_name}.{name}", value


DEFINED = [pair for module in MODULES for pair in defined(module)]


def exists(symbol: str) -> bool:
    """Whether ``equipoise.a.b.C.d`` can be reached by import and attributes."""
    parts = symbol.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            fields = getattr(found, "__dataclass_fields__", {})
            if part in fields:
                return part == parts[-1]
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def fenced(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def test_every_package_lists_its_names_and_has_them():
    wrong = []
    for package in PACKAGES:
        module = importlib.import_module(package)
        if not hasattr(module, "__all__"):
            wrong.append(f"{package} has no __all__")
            continue
        wrong += [f"{package}.{name}" for name in module.__all__ if not hasattr(module, name)]
    assert wrong == []


def test_everything_is_where_one_guess_looks():
    places = json.loads((ROOT / "tests" / "one_guess.json").read_text())
    assert len(places) == 27
    wrong = []
    for thing, (path, symbol) in places.items():
        name = f"equipoise.{path.removesuffix('.py').replace('/', '.')}"
        if not exists(f"{name}.{symbol}") or not (SOURCE / path).exists():
            wrong.append(f"{thing}: {path} has no {symbol}")
    assert wrong == []


def test_only_types_is_a_loose_module():
    loose = {path.name for path in SOURCE.glob("*.py")}
    assert loose == {"__init__.py", "__main__.py", "types.py"}


def test_what_the_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'speling'"):
        _ = equipoise.speling


def test_every_public_symbol_has_a_docstring():
    lacking = [module for module in MODULES if not importlib.import_module(module).__doc__]
    for name, value in DEFINED:
        if not value.__doc__ or value.__doc__.startswith(f"{value.__name__}("):
            lacking.append(name)
        if inspect.isclass(value):
            for member, method in vars(value).items():
                inner = getattr(method, "fget", None) or getattr(method, "__func__", method)
                if inspect.isfunction(inner) and not member.startswith("_") and not inner.__doc__:
                    lacking.append(f"{name}.{member}")
    assert lacking == []


def test_every_function_of_more_than_two_arguments_documents_them():
    lacking = []
    for name, value in DEFINED:
        if not inspect.isfunction(value) or ".recipes." in name or ".cli." in name:
            continue
        parameters = inspect.signature(value).parameters
        says = re.search(r"^\s*(Args|Returns|Raises|Source|Shape):", value.__doc__ or "", re.M)
        if len(parameters) > 2 and not says:
            lacking.append(name)
    assert lacking == []


def test_documented_arguments_are_those_of_the_signature():
    wrong = []
    for name, value in DEFINED:
        section = re.search(r"^( *)Args:\n(.*?)(?:\n\n|\Z)", value.__doc__ or "", re.S | re.M)
        if not section or getattr(value, "_is_protocol", False):
            continue
        indent = len(section[1]) + 4
        listed = re.findall(rf"^ {{{indent}}}(\w+):", section[2], re.M)
        known = set(inspect.signature(value).parameters)
        wrong += [f"{name}: {argument}" for argument in listed if argument not in known]
    assert wrong == []


def test_no_source_file_is_longer_than_400_lines():
    assert [name_of(path) for path in SOURCES if len(path.read_text().splitlines()) > 400] == []


def functions():
    """Every function of the package, as (place, node)."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield f"{name_of(path)}:{node.lineno} {node.name}", node


def parameters_of(node: ast.FunctionDef) -> list[ast.arg]:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [argument for argument in arguments if argument.arg not in ("self", "cls")]


def test_no_function_has_more_than_60_lines():
    """The docstring does not count."""
    long = []
    for place, node in functions():
        body = node.body[1:] if ast.get_docstring(node) else node.body
        if body and body[-1].end_lineno - body[0].lineno + 1 > 60:
            long.append(place)
    assert long == []


def test_every_public_function_is_annotated():
    lacking = [
        place
        for place, node in functions()
        if not node.name.startswith("_")
        and (node.returns is None or any(a.annotation is None for a in parameters_of(node)))
    ]
    assert lacking == []


def test_the_paper_map_names_symbols_that_exist():
    path = ROOT / "docs" / "paper_map.md"
    symbols = re.findall(r"`(equipoise\.[\w.]+\w)", path.read_text())
    assert symbols
    assert [symbol for symbol in dict.fromkeys(symbols) if not exists(symbol)] == []


def test_the_paper_map_names_tests_that_exist():
    path = ROOT / "docs" / "paper_map.md"
    written = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"\btest_\w+", path.read_text()))
    files = {p.stem for p in (ROOT / "tests").rglob("test_*.py")}
    assert [name for name in sorted(named - files) if f"def {name}(" not in written] == []


@pytest.mark.parametrize("symbol", ["equipoise.attacks.threat.Linf", "equipoise.methods.Gate.lead"])
def test_symbols_that_exist_are_told_from_those_that_do_not(symbol):
    assert exists(symbol)
    assert not exists(symbol + "s")


TABLES = [page for page in PAGES if "<!-- " in page.read_text()]


@pytest.mark.slow
@pytest.mark.parametrize("page", TABLES, ids=name_of)
def test_the_tables_of_a_page_are_up_to_date(page, tmp_path):
    """On a copy, beside links to everything that its markers may name."""
    text = page.read_text()
    assert text.count("<!-- records:") == text.count("<!-- end records -->")
    place = page.relative_to(ROOT)
    copy = tmp_path / place
    for parent in [*place.parents][::-1]:  # from the root down to the page's folder
        (tmp_path / parent).mkdir(exist_ok=True)
        for other in (ROOT / parent).iterdir():
            if not page.is_relative_to(other):
                (tmp_path / parent / other.name).symlink_to(other)
    copy.write_text(text)
    assert not fill_markers(copy), f"run: equipoise report --into {place}"


def test_the_links_of_every_page_lead_to_files():
    broken = []
    for page in PAGES:
        targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
        broken += [
            f"{name_of(page)}: {target}"
            for target in targets
            if not (page.parent / target).exists()
        ]
    assert broken == []


def test_the_readme_has_at_most_1000_words_of_prose():
    text = re.sub(r"```.*?```|^\|[^\n]*$|<!--.*?-->", "", README.read_text(), flags=re.S | re.M)
    assert len(text.split()) <= 1000


@pytest.mark.slow
def test_the_readmes_python_runs_on_few_digits(tmp_path, monkeypatch):
    blocks = fenced(README, "python")
    assert blocks
    few = tiny.digits()
    monkeypatch.setattr(Digits, "load", lambda self: few)
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        assert len(block.splitlines()) <= 11
        exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})


def test_the_readmes_commands_and_flags_exist(monkeypatch, capsys):
    from equipoise.cli.main import COMMANDS, main
    from equipoise.recipes import RECIPES

    monkeypatch.setenv("COLUMNS", "200")
    lines = [
        line.split("#")[0].split()
        for block in fenced(README, "bash")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    commands = [line for line in lines if line[:1] == ["equipoise"]]
    assert commands
    for _, command, *arguments in commands:
        assert command in COMMANDS
        asked = [command, "--help"]
        if command == "train" and not arguments[0].startswith("runs/"):
            assert arguments[0] in {*RECIPES, "afs"}
            place = arguments.index("--dataset") if "--dataset" in arguments else len(arguments)
            asked = [command, arguments[0], *arguments[place : place + 2], "--help-all"]
        with pytest.raises(SystemExit):
            main(asked)
        printed = capsys.readouterr().out
        flags = [argument for argument in arguments if argument.startswith("--")]
        assert [flag for flag in flags if flag not in printed] == []
