"""What ``import equipoise`` offers."""

import ast
import inspect
import subprocess
import sys
from importlib.metadata import version

import pytest

import equipoise
import equipoise.evaluation


def test_importing_the_package_imports_no_torch():
    code = "import equipoise, sys; dir(equipoise); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_exported_name_exists_and_is_shown_by_dir():
    assert set(equipoise.__all__) <= set(dir(equipoise))
    assert all(getattr(equipoise, name) is not None for name in equipoise.__all__)


@pytest.mark.parametrize("package", [equipoise, equipoise.evaluation])
def test_type_checkers_see_the_names_that_exist_at_run_time(package):
    tree = ast.parse(inspect.getsource(package))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    declared = {alias.name: f"{node.module}" for node in imports for alias in node.names}
    lazy = {
        name: f"{package.__name__}.{module}"
        for module, names in package._MODULES.items()
        for name in names
    }
    assert declared == lazy
    assert set(declared) == set(package.__all__) - {"__version__"}


def test_the_version_is_the_installed_one():
    assert equipoise.__version__ == version("equipoise")
