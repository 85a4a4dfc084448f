"""The direction of imports: a package imports only from packages before it, deferred imports and those for type checking included."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

# From left to right; a group that knows nothing of its siblings is written in one string, separated by a space.
DIRECTION = (
    "handler.base",
    "handler.schema",
    "handler.output handler.audio",
    "handler.engine",
    "handler.whisper",
    "handler.transcription",
    "handler.startup",
    "handler.jobs handler.cli local_server",
    "handler.entry",
)
# Modules that lie directly in handler/: what everybody may use, and the platform's entry points.
BASE = ("", "settings", "errors", "exit_codes", "logs", "timeline", "languages", "validators", "runpod_sdk")
ENTRY = ("worker", "__main__", "health")
RANK = {package: rank for rank, group in enumerate(DIRECTION) for package in group.split()}
FILES = [path for top in ("handler", "local_server") for path in sorted((ROOT / top).rglob("*.py"))]
LONGEST_MODULE, LONGEST_FUNCTION, MOST_MODULES = 350, 50, 12


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def package_of(module: str) -> str:
    """The room of a module: its first folder, or what the modules directly in handler/ are there for."""
    top, _, rest = module.partition(".")
    if top == "local_server":
        return top
    if rest in BASE:
        return "handler.base"
    return "handler.entry" if rest in ENTRY else f"{top}.{rest.partition('.')[0]}"


MODULES = {module_of(path) for path in FILES}


def imports_of(tree: ast.AST) -> set[str]:
    """Every first-party module that is imported, wherever in a file."""
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


def test_modules_import_each_other_in_no_circle() -> None:
    imports = {module_of(path): imports_of(ast.parse(path.read_text())) for path in FILES}
    left = {module: {name for name in names if name in imports} for module, names in imports.items()}
    while free := [module for module, names in left.items() if not names & set(left)]:
        for module in free:
            del left[module]
    assert not left


def test_handler_itself_holds_few_modules() -> None:
    assert len(list((ROOT / "handler").glob("*.py"))) <= MOST_MODULES


def test_what_tests_share_knows_no_script() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        assert not {name for name in imports_of(ast.parse(path.read_text())) if name.startswith("scripts")}, path


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_says_what_it_is_and_stays_small(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    assert len(text.splitlines()) <= LONGEST_MODULE
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [((node.end_lineno or node.lineno) - node.lineno + 1, node.name) for node in functions]
    assert [function for function in lengths if function[0] > LONGEST_FUNCTION] == []


def test_packages_cost_nothing_to_import() -> None:
    for path in FILES:
        if path.name == "__init__.py" and module_of(path) not in ("handler", "handler.cli"):
            assert len(ast.parse(path.read_text()).body) == 1, f"{path} holds more than its docstring"
