"""The shape of the package, held: no import circle of any kind, folders in one strict order, nothing too long."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import unlabeled

PACKAGE = Path(unlabeled.__file__).parent

# From the ground up: a folder or module imports only from those named before it, or from itself.
ORDER = (
    *("errors", "randomness", "version", "distributed", "config", "progress", "device", "writing"),
    *("metrics", "diagnostics", "recipes", "data", "cluster", "losses", "memory", "models", "features"),
    *("methods", "runs", "training", "weights", "evaluation", "protocols", "visualize", "report"),
    *("explorer", "session", "run", "demonstration", "api", "cli", "__main__", "__init__"),
)
MOST_LINES, MOST_FUNCTION_LINES, MOST_ROOT_MODULES = 400, 60, 17
# Longer than they should be. A file or function may leave these lists and none may join them.
LONG_FILES = {
    *("data/voc.py", "explorer/server.py", "report/page.py", "run.py", "session.py"),
    *("visualize/plots.py", "visualize/training_curves.py", "data/doctor.py"),
}
LONG_FUNCTIONS = {
    *("api.train", "cli.evaluate.evaluate", "cli.train.train", "cli.weights.import_weights"),
    *("protocols.detection.voc_detection", "protocols.voc.voc_classification", "protocols.voc.voc_segmentation"),
    "session.begin",
}
MOST_EDGES = 5.6
"""Modules of ours that one imports, on average."""


def module_of(path: Path, package: Path) -> str:
    """`cluster.kmeans` for cluster/kmeans.py; a folder's __init__ is the folder, the package's own is `__init__`."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def top(module: str) -> str:
    return module.split(".")[0]


def graph(package: Path) -> dict[str, set[str]]:
    """Which module imports which: at the top, inside functions and for types alike."""
    files = {module_of(path, package): path for path in sorted(package.rglob("*.py"))}
    edges: dict[str, set[str]] = {}
    for name, path in files.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and top(node.module) == "unlabeled":
                base = node.module.removeprefix("unlabeled").lstrip(".")
                for alias in node.names:
                    inner = f"{base}.{alias.name}".lstrip(".")
                    found.add(inner if inner in files else base or "__init__")
            elif isinstance(node, ast.Import):
                found |= {
                    a.name.removeprefix("unlabeled").lstrip(".") for a in node.names if top(a.name) == "unlabeled"
                }
        edges[name] = {other for other in found if other in files and other != name}
    return edges


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected modules, by taking away again and again those that import nothing or are imported by nothing left."""
    left = {name: set(others) for name, others in edges.items()}
    while True:
        imported = {other for others in left.values() for other in others}
        free = {name for name, others in left.items() if not others & left.keys() or name not in imported}
        if not free:
            return [sorted(left)] if left else []
        left = {name: others - free for name, others in left.items() if name not in free}


def wrong_imports(package: Path) -> list[str]:
    """What is wrong with the imports of a package, a sentence each."""
    level = {name: number for number, name in enumerate(ORDER)}
    wrong: list[str] = []
    for name, others in graph(package).items():
        if top(name) not in level:
            wrong.append(f"{name} has no place: name '{top(name)}' in ORDER")
            continue
        wrong += [
            f"{name} imports {other}"
            for other in sorted(others)
            if top(other) != top(name) and level.get(top(other), 0) > level[top(name)]
        ]
    return wrong


def test_every_module_has_a_place():
    present = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert present - {"py"} == set(ORDER)


def test_imports_of_every_kind_point_downward():
    assert wrong_imports(PACKAGE) == []


def test_there_is_no_circle():
    assert circles(graph(PACKAGE)) == []


def test_what_is_wrong_is_found(tmp_path: Path):
    (tmp_path / "losses.py").write_text("def f():\n    from unlabeled.methods import base\n")
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "base.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import unlabeled.losses\n"
    )
    (tmp_path / "helpers.py").write_text("import os\n")
    assert wrong_imports(tmp_path) == [
        "helpers has no place: name 'helpers' in ORDER",
        "losses imports methods.base",
    ]
    assert circles(graph(tmp_path)) == [["losses", "methods.base"]]


def test_evaluation_knows_no_run_and_no_method():
    known = {other for name, others in graph(PACKAGE).items() if top(name) == "evaluation" for other in others}
    assert not {top(name) for name in known} & {"runs", "methods", "run", "protocols"}


def test_modules_import_few_others():
    edges = graph(PACKAGE)
    assert sum(map(len, edges.values())) / len(edges) <= MOST_EDGES


def test_files_and_functions_are_short():
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name for name, lines in lengths.items() if lines > MOST_LINES} <= LONG_FILES
    assert {name for name, lines in functions(PACKAGE) if lines > MOST_FUNCTION_LINES} <= LONG_FUNCTIONS


def functions(package: Path) -> Iterator[tuple[str, int]]:
    """Every function and method, docstring included: its name and lines."""
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                yield f"{module_of(path, package)}.{node.name}", node.end_lineno - node.lineno + 1


def test_the_root_has_few_modules():
    modules = [path for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")]
    assert len(modules) <= MOST_ROOT_MODULES


def test_the_table_of_the_docs_has_every_place_in_order():
    text = (Path(__file__).parent.parent / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| ((?:`[\w/]+` ?)+) \|", text, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)/?`", row)]
    # Read from the top of the page, the highest comes first.
    assert named[::-1] == [name for name in ORDER if not name.startswith("__")]


def test_no_choice_is_spelt_out_twice():
    """Two lists of the same values would be kept apart by whoever changes one of them."""
    places: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("Literal["):
                name = f"{path.relative_to(PACKAGE)}: {ast.unparse(node.targets[0])}"
                places.setdefault(ast.unparse(node.value), []).append(name)
    assert {names[0]: names[1:] for names in places.values() if len(names) > 1} == {}


def test_no_two_public_classes_have_one_name():
    places: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_public_names_are_sorted_and_exact():
    assert unlabeled.__all__ == sorted(unlabeled.__all__)
    assert set(unlabeled.__all__) == {
        "__version__",
        "cache",
        "check",
        "demo",
        "import_weights",
        "load",
        "resume",
        "train",
    }
    assert all(getattr(unlabeled, name) for name in unlabeled.__all__)


def test_the_command_line_imports_nothing_heavy():
    heavy = ("torch", "torchvision", "scipy", "sklearn", "matplotlib", "skimage", "pyarrow", "tifffile", "pandas")
    code = f"import sys, unlabeled.cli; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_loop_fits_on_one_screen():
    tree = ast.parse((PACKAGE / "training" / "loop.py").read_text())
    loop = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train")
    assert loop.end_lineno is not None
    assert loop.end_lineno - loop.lineno < 60
