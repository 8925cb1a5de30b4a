"""The repository keeps its own promises: exports, docstrings, file sizes, paper map, README."""

import ast
import importlib
import inspect
import pkgutil
import re
import shutil
from pathlib import Path

import pytest
import tiny

import equipoise
from equipoise.report import fill_markers
from equipoise.workflows.train import train

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src" / "equipoise").rglob("*.py"))
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


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_of_a_package_exists(package):
    module = importlib.import_module(package)
    source = Path(module.__file__).read_text()
    exported = re.findall(r"import \w+ as (\w+)", source)
    listed = (
        re.findall(r'^    "(\w+)": "\w+",$', source, re.MULTILINE) if "_HOMES" in source else []
    )
    for name in [*exported, *listed, *getattr(module, "__all__", [])]:
        assert hasattr(module, name), name


def test_what_the_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'speling'"):
        _ = equipoise.speling


@pytest.mark.parametrize("module", MODULES)
def test_every_public_symbol_has_a_docstring(module):
    lacking = [] if importlib.import_module(module).__doc__ else [module]
    for name, value in defined(module):
        if not value.__doc__ or value.__doc__.startswith(f"{value.__name__}("):
            lacking.append(name)
        if inspect.isclass(value):
            for member, method in vars(value).items():
                inner = getattr(method, "fget", None) or getattr(method, "__func__", method)
                if inspect.isfunction(inner) and not member.startswith("_") and not inner.__doc__:
                    lacking.append(f"{name}.{member}")
    assert lacking == []


@pytest.mark.parametrize("module", MODULES)
def test_every_function_that_takes_or_gives_something_says_what(module):
    """A one-line docstring is enough for up to two arguments whose names say it all."""
    lacking = []
    for name, value in defined(module):
        if not inspect.isfunction(value) or ".recipes." in name or ".cli." in name:
            continue
        parameters = inspect.signature(value).parameters
        says = re.search(r"^\s*(Args|Returns|Raises|Source|Shape):", value.__doc__ or "", re.M)
        if len(parameters) > 2 and not says:
            lacking.append(name)
    assert lacking == []


@pytest.mark.parametrize("module", MODULES)
def test_documented_arguments_are_those_of_the_signature(module):
    wrong = []
    for name, value in defined(module):
        section = re.search(r"^( *)Args:\n(.*?)(?:\n\n|\Z)", value.__doc__ or "", re.S | re.M)
        if not section or getattr(value, "_is_protocol", False):
            continue
        indent = len(section[1]) + 4
        listed = re.findall(rf"^ {{{indent}}}(\w+):", section[2], re.M)
        known = set(inspect.signature(value).parameters)
        wrong += [f"{name}: {argument}" for argument in listed if argument not in known]
    assert wrong == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_source_file_is_longer_than_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_public_function_is_annotated(path):
    lacking = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        if bare or node.returns is None:
            lacking.append(f"{node.name} (line {node.lineno})")
    assert lacking == []


def test_the_paper_map_names_symbols_that_exist():
    path = ROOT / "docs" / "paper_map.md"
    if not path.exists():
        pytest.skip("docs/paper_map.md is not written yet")
    symbols = re.findall(r"`(equipoise\.[\w.]+\w)", path.read_text())
    assert symbols
    assert [symbol for symbol in dict.fromkeys(symbols) if not exists(symbol)] == []


def test_the_paper_map_names_tests_that_exist():
    path = ROOT / "docs" / "paper_map.md"
    if not path.exists():
        pytest.skip("docs/paper_map.md is not written yet")
    written = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"\btest_\w+", path.read_text()))
    files = {p.stem for p in (ROOT / "tests").rglob("test_*.py")}
    assert [name for name in sorted(named - files) if f"def {name}(" not in written] == []


@pytest.mark.parametrize("symbol", ["equipoise.attacks.threat.Linf", "equipoise.methods.Gate.lead"])
def test_symbols_that_exist_are_told_from_those_that_do_not(symbol):
    assert exists(symbol)
    assert not exists(symbol + "s")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
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


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_of_a_page_lead_to_files(page):
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.slow
@pytest.mark.skipif(not README.exists(), reason="README.md is not written yet")
def test_the_readmes_python_runs_on_a_tiny_model(tmp_path, monkeypatch):
    blocks = fenced(README, "python")
    assert blocks
    folders = {
        path
        for block in blocks
        for path in re.findall(r"""["']([\w./-]*runs/[\w./-]+)["']""", block)
    }
    model = train(tiny.recipe("afa_digits"), tmp_path / "trained", dataset=tiny.digits())
    assert not model.training
    for folder in folders:
        place = tmp_path / folder
        place.parent.mkdir(parents=True, exist_ok=True)
        copied = "trained/model" if place.name == "model" else "trained"
        shutil.copytree(tmp_path / copied, place, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})


@pytest.mark.skipif(not README.exists(), reason="README.md is not written yet")
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
            asked = [command, arguments[0], *arguments[place : place + 2], "--help"]
        with pytest.raises(SystemExit):
            main(asked)
        printed = capsys.readouterr().out
        flags = [argument for argument in arguments if argument.startswith("--")]
        assert [flag for flag in flags if flag not in printed] == []
