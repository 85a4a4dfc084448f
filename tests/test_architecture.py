"""The direction of imports: a package imports only from packages before it.

Deferred imports and those for type checking count too.
"""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

# From low to high; packages in one string, separated by a space, do not import from each other.
DIRECTION = (
    "handler.base",
    "handler.schema",
    "handler.output handler.editing handler.audio",
    "handler.engine handler.tokens",
    "handler.whisper handler.hub handler.speakers",
    "handler.transcription",
    "handler.live",
    "handler.startup",
    "handler.jobs handler.cli local_server",
    "handler.entry",
)
# Modules directly in handler/: those that every package may import, and the entry points.
BASE = ("", "settings", "errors", "exit_codes", "logs", "timeline", "languages", "validators", "runpod_sdk")
ENTRY = ("worker", "__main__", "health")
RANK: dict[str, int] = {}
for rank, group in enumerate(DIRECTION):
    RANK |= dict.fromkeys(group.split(), rank)
FILES = [*sorted((ROOT / "handler").rglob("*.py")), *sorted((ROOT / "local_server").rglob("*.py"))]
MAX_MODULE_LINES, MAX_FUNCTION_LINES, MAX_BASE_MODULES = 350, 50, 12


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def package_of(module: str) -> str:
    """Return the package of a module; those directly in handler/ form the packages base and entry."""
    top, _, path = module.partition(".")
    if top == "local_server":
        return top
    if path in BASE:
        return "handler.base"
    return "handler.entry" if path in ENTRY else f"{top}.{path.partition('.')[0]}"


MODULES = {module_of(path) for path in FILES}


def imports_of(tree: ast.AST) -> set[str]:
    """Return every first-party module that a file imports, anywhere in it."""
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= {name if name in MODULES else str(node.module) for name in names}
    return {name for name in imported if name.split(".")[0] in ("handler", "local_server", "tests", "scripts")}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_imports_only_from_packages_before_its_own(path: Path) -> None:
    package = package_of(module_of(path))
    assert package in RANK, "every package has its place in the direction"
    imported = {package_of(name) for name in imports_of(ast.parse(path.read_text()))}
    assert {name for name in imported if name != package and RANK[name] >= RANK[package]} == set()


def test_no_modules_import_each_other() -> None:
    imports = {module_of(path): imports_of(ast.parse(path.read_text())) for path in FILES}
    remaining = {module: {name for name in names if name in imports} for module, names in imports.items()}
    while leaves := [module for module, names in remaining.items() if not names & set(remaining)]:
        for module in leaves:
            del remaining[module]
    assert not remaining


def test_few_modules_lie_directly_in_handler() -> None:
    assert len(list((ROOT / "handler").glob("*.py"))) <= MAX_BASE_MODULES


def test_tests_import_no_script() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        assert not {name for name in imports_of(ast.parse(path.read_text())) if name.startswith("scripts")}, path


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_has_a_docstring_and_a_limited_length(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    assert len(text.splitlines()) <= MAX_MODULE_LINES
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [((node.end_lineno or node.lineno) - node.lineno + 1, node.name) for node in functions]
    assert [function for function in lengths if function[0] > MAX_FUNCTION_LINES] == []


def test_packages_cost_nothing_to_import() -> None:
    for path in FILES:
        if path.name == "__init__.py" and module_of(path) not in ("handler", "handler.cli"):
            assert len(ast.parse(path.read_text()).body) == 1, f"{path} holds more than its docstring"


INNER_PARTS = ("engine", "fetcher", "runner", "settings", "threads")  # of a pipeline


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_nobody_reaches_through_the_pipeline(path: Path) -> None:
    """Those who use a pipeline call its methods, and know nothing of what it consists of."""
    if package_of(module_of(path)) == "handler.transcription":
        return
    owners = ("pipeline", "_pipeline")
    reaches = [
        f"{node.lineno}: {node.attr}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in INNER_PARTS
        and getattr(node.value, "id", getattr(node.value, "attr", None)) in owners
    ]
    assert reaches == []
