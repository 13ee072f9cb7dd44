"""The shape of the package, held: imports point downward, the public surface is exactly what is promised."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import unlabeled

PACKAGE = Path(unlabeled.__file__).parent

# From the ground up; a module may import only from layers below its own, or from its own folder.
LAYERS = (
    ("errors", "config", "randomness", "allocator"),
    ("distributed",),
    ("device", "progress"),
    ("signals",),
    ("data", "models", "cluster", "metrics"),
    (
        *("features", "memory", "bank_softmax", "losses", "optim", "checkpoint", "assignments", "journal", "health"),
        "runfolder",
    ),
    ("methods",),
    ("training", "plan", "catalogue", "images", "evaluation", "visualize", "weights"),
    (
        *("recipes", "protocols", "pictures", "overview", "summary", "run", "embedding", "clustered"),
        *("session", "demonstration", "api", "explorer", "notebook", "cli", "__main__", "__init__"),
    ),
)
LEAVES = LAYERS[4]
DOORS = LAYERS[-1]


def top(module: str) -> str:
    return module.removeprefix("unlabeled").lstrip(".").split(".")[0] or "__init__"


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "unlabeled":
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "unlabeled" else [node.module]
            )
            found |= {top(name) for name in names}
        elif isinstance(node, ast.Import):
            found |= {top(alias.name) for alias in node.names if alias.name.split(".")[0] == "unlabeled"}
    return found


def test_every_module_has_a_layer():
    known = {name for layer in LAYERS for name in layer}
    present = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert present - {"py"} == known


def test_the_table_of_the_docs_has_every_module_in_its_layer():
    text = (Path(__file__).parent.parent / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (\w+) \| ([^|]+) \|", text, re.MULTILINE)
    named = {layer: sorted(re.findall(r"`(\w+)/?`", modules)) for layer, modules in rows if layer != "layer"}
    wanted = dict(zip(("leaves", "parts", "papers", "programs", "doors"), map(sorted, LAYERS[4:]), strict=True))
    wanted["ground"] = sorted(name for layer in LAYERS[:4] for name in layer)
    wanted["doors"] = [name for name in wanted["doors"] if not name.startswith("__")]
    assert named == wanted


def imports_that_point_up(package: Path) -> list[str]:
    """What is wrong with the imports of a package, a sentence each."""
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    wrong: list[str] = []
    for path in sorted(package.rglob("*.py")):
        own = top(".".join(path.relative_to(package).with_suffix("").parts))
        if own not in level:
            wrong.append(f"{path.relative_to(package)} belongs to no layer: name '{own}' in one of LAYERS")
            continue
        for other in imports_of(path):
            if other in (own, "__version__") or own == "__init__":
                continue
            sideways = level.get(other, 0) == level[own] and (
                own in LEAVES or own not in DOORS + LAYERS[0] + LAYERS[5] + LAYERS[7]
            )
            if other in level and (level[other] > level[own] or sideways):
                wrong.append(f"{path.relative_to(package)} imports {other}")
    return wrong


def test_imports_point_downward():
    assert imports_that_point_up(PACKAGE) == []


def test_what_is_wrong_with_an_import_is_a_sentence(tmp_path: Path):
    (tmp_path / "losses.py").write_text("from unlabeled.methods.base import Method\n")
    (tmp_path / "helpers.py").write_text("import os\n")
    assert imports_that_point_up(tmp_path) == [
        "helpers.py belongs to no layer: name 'helpers' in one of LAYERS",
        "losses.py imports methods",
    ]


def test_no_choice_is_spelt_out_twice():
    """Two lists of the same values would be kept apart by whoever changes one of them."""
    places: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("Literal["):
                name = f"{path.relative_to(PACKAGE)}: {ast.unparse(node.targets[0])}"
                places.setdefault(ast.unparse(node.value), []).append(name)
    assert {names[0]: names[1:] for names in places.values() if len(names) > 1} == {}


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
    tree = ast.parse((PACKAGE / "training.py").read_text())
    loop = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train")
    assert loop.end_lineno is not None
    assert loop.end_lineno - loop.lineno < 60
