"""The structure of the repository: layers, chains of imports, sizes."""

import ast
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT, code_lines

SCRIPTS = ("vanilla_gan", "dcgan", "cdcgan", "wgan_gp")
TOP = (*SCRIPTS, "fid", "inception_score", "data", "generate", "demo")
# From the highest layer to the lowest. A module imports from its own layer or from lower ones.
LAYERS = (
    {*SCRIPTS, "demo"},
    {"training"},
    {"fid", "inception_score", "generate"},
    {"data"},
    {"support"},
)
UPWARDS = {
    ("support.image_sets", "data"),  # what a command line can call a set of images
}
OWN = {*TOP, "training", "support", "tests", "tools", "benchmarks"}


def tracked() -> list[str]:
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    return names.split() or [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file()]


@cache
def product() -> dict[str, Path]:
    """Return module name -> file of all that is neither a test nor a tool."""
    files = [ROOT / f"{name}.py" for name in TOP]
    files += [*(ROOT / "training").glob("*.py"), *(ROOT / "support").glob("*.py")]
    names = {str(path.relative_to(ROOT))[:-3].replace("/", "."): path for path in files}
    return {name: path for name, path in names.items() if not name.endswith("__init__")}


@cache
def imports(path: Path, nested: bool) -> frozenset[str]:
    """Return our modules that a file imports; `nested`: also within functions and conditions."""
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    for node in nodes:  # which grows
        if nested or not isinstance(node, ast.FunctionDef | ast.Lambda):
            nodes += ast.iter_child_nodes(node)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return frozenset(name for name in found if name in product() or name in ("tests", "tools"))


def layer(module: str) -> int:
    (place,) = (i for i, names in enumerate(LAYERS) if module.split(".")[0] in names)
    return place


def test_nine_files_at_the_top_level() -> None:
    assert sorted(p.stem for p in ROOT.glob("*.py")) == sorted(TOP)


@pytest.mark.parametrize("name", product())
def test_imports_go_downwards(name: str) -> None:
    for other in imports(product()[name], nested=True):
        allowed = layer(name) <= layer(other) or (name, other) in UPWARDS
        assert allowed, f"{name} imports {other}, which is in a higher layer"


CHAINS: dict[str, tuple[str, ...]] = {}


def chain(name: str, above: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the longest chain of imports from a module; fail where it is a circle."""
    assert name not in above, f"a circle: {' > '.join((*above, name))}"
    if name not in CHAINS:
        below = [chain(other, (*above, name)) for other in imports(product()[name], nested=False)]
        CHAINS[name] = (name, *max(below, key=len, default=()))
    return CHAINS[name]


def test_no_chain_of_imports_has_more_than_seven_modules() -> None:
    longest = max((chain(name) for name in product()), key=len)
    assert len(longest) <= 7, " > ".join(longest)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_imports_from_six_modules(name: str) -> None:
    found = imports(product()[name], nested=True)
    assert len(found) <= 6, sorted(found)


@pytest.mark.parametrize("name", product())
def test_files_are_small(name: str) -> None:
    path = product()[name]
    most = 306 if name in SCRIPTS else 260 if name in ("fid", "data", "generate") else 350
    assert len(path.read_text(encoding="utf-8").splitlines()) <= most
    if name in SCRIPTS:
        assert code_lines(path) <= 213


def test_classes_are_small() -> None:
    for name, path in product().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= 275, f"{name}.{node.name} has {lines} lines"


def names_of(path: Path) -> set[str]:
    """Return the names that a file defines: functions, classes, constants."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return names


def test_names_are_imported_from_the_module_that_defines_them() -> None:
    defined = {name: names_of(path) for name, path in product().items()}
    for path in (ROOT / name for name in tracked() if name.endswith(".py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in defined:
                missing = {alias.name for alias in node.names} - defined[node.module]
                assert not missing, f"{path}: {node.module} does not define {missing}"


def test_packages_are_empty_and_nothing_imports_a_test() -> None:
    for name in tracked():
        if name.endswith("__init__.py"):
            assert (ROOT / name).read_text() == "", name
        elif name.endswith(".py") and not name.startswith("tests/"):
            for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
                assert not any(n.split(".")[0] == "tests" for n in names), f"{name} imports a test"


def test_imports_within_functions_say_why() -> None:
    """They are for the start-up time of other libraries only, and each has a comment."""
    for name, path in product().items():
        lines = path.read_text(encoding="utf-8").splitlines()
        for function in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Import | ast.ImportFrom):
                        near = lines[node.lineno - 2 : node.lineno]
                        assert any("#" in line for line in near), f"{name}:{node.lineno}"
