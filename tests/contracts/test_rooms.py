"""The house: the data half never meets torch, `--help` is light, files and functions stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "lightning",
    "timm",
    "torchgeo",
    "xarray",
    "rasterio",
    "dask",
    "zarr",
    "pyarrow",
    "sklearn",
    "faiss",
    "matplotlib",
)
DATA_HALF = (
    "errors",
    "sensors",
    "landcover",
    "cards",
    "fingerprints",
    "manifest",
    "sample",
    "scene",
    "tiling",
    "corpus",
    "curation",
)


def loaded_after(code: str) -> set[str]:
    """Top-level modules present in a fresh interpreter after ``code``."""
    script = f"{code}\nimport sys\nprint(' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("room", DATA_HALF)
def test_data_half_leaves_torch_unimported(room: str) -> None:
    assert not loaded_after(f"import eo_ssl.{room}") & {"torch", "lightning", "timm", "torchgeo"}


def test_help_imports_nothing_heavy() -> None:
    assert not loaded_after("from eo_ssl.cli import main; main(['--help'])") & set(HEAVY)


def test_the_door_of_the_package_imports_nothing_heavy() -> None:
    """Only `Corpus` and its like do, when a name is asked for."""
    loaded = loaded_after("import eo_ssl; eo_ssl.__all__; dir(eo_ssl)")
    assert not loaded & {*HEAVY, "numpy", "rich", "yaml", "pydantic"}


def python_files(root: Path) -> list[Path]:
    return sorted([*root.glob("eo_ssl/**/*.py"), *root.glob("workflows/*.py")])


def docstring(node: ast.FunctionDef) -> int:
    """Lines of a function's docstring, which for a command says what each option does."""
    first = node.body[0]
    words = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return (first.end_lineno or 0) - first.lineno + 1 if words else 0


def test_a_reader_can_hold_each_file_and_function(project_root: Path) -> None:
    long_files = [path.name for path in python_files(project_root) if len(path.read_text().splitlines()) > 350]
    long_functions = [
        f"{path.name}:{node.name}"
        for path in python_files(project_root)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno + 1 - docstring(node) > 60
    ]
    assert (long_files, long_functions) == ([], [])


def statements(path: Path) -> int:
    """Lines of a file that hold code: no docstring, comment or blank line."""
    tree = ast.parse(path.read_text())
    words = [
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    silent = {line for word in words for line in range(word.lineno, (word.end_lineno or 0) + 1)}
    lines = enumerate(path.read_text().splitlines(), 1)
    return sum(
        1 for number, line in lines if number not in silent and line.strip() and not line.strip().startswith("#")
    )


def test_workflows_compose_and_hold_no_algorithm(project_root: Path) -> None:
    for path in project_root.glob("workflows/*.py"):
        assert statements(path) <= 125, path.name
        classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
        assert all(node.decorator_list for node in classes), path.name  # a dataclass for options, at most


def test_there_is_no_drawer(project_root: Path) -> None:
    names = {path.stem for path in python_files(project_root)}
    assert not names & {"utils", "util", "helpers", "common", "misc", "manager"}


def imported(path: Path) -> set[str]:
    """Modules that a file imports by name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_the_package_knows_nothing_of_its_tests(project_root: Path) -> None:
    support = {path.stem for path in (project_root / "tests").iterdir()}
    assert "worlds" in support
    borrowed = {
        path.name: names
        for path in python_files(project_root)
        if (names := {name.partition(".")[0] for name in imported(path)} & support)
    }
    assert borrowed == {}


def test_workflows_stand_outside_the_rooms(project_root: Path) -> None:
    """import-linter sees only what lies under eo_ssl/ on disk; the workflows are mapped into the package from beside it.

    The door of the package hands them on by name, in its table of what it imports when asked, and no room does.
    """
    door = project_root / "eo_ssl" / "__init__.py"
    rooms = [
        path.name
        for path in project_root.glob("eo_ssl/**/*.py")
        if "eo_ssl.workflows" in imported(path) or (path != door and '"workflows.' in path.read_text())
    ]
    composers = [path.name for path in project_root.glob("workflows/*.py") if "eo_ssl.cli" in imported(path)]
    assert (rooms, composers) == ([], [])
