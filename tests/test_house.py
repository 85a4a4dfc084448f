"""The house's direction: a module imports only from lower levels, deferred imports and those for type checking included."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

LEVELS = (
    ("handler",),
    ("handler.budget", "handler.tally", "handler.errors", "handler.timeline", "handler.logs", "handler.languages", "handler.sdk"),
    ("handler.fields", "handler.models", "handler.sendable", "handler.scaler"),
    ("handler.model_names", "handler.audio.spool", "handler.audio.archive",
     "handler.schema", "handler.whisper.ctranslate2", "handler.whisper.dims", "handler.whisper.linear",
     "handler.whisper.safefile", "handler.whisper.tokenizer"),
    ("handler.settings", "handler.scheduler", "handler.longform", "handler.fallback", "handler.coverage",
     "handler.subtitles", "handler.audio.decode", "handler.audio.vad", "handler.whisper.rules",
     "handler.whisper.cache", "handler.whisper.heads", "handler.whisper.kept", "handler.whisper.segments", "handler.whisper.words"),
    ("handler.whisper.model",
     "handler.device", "handler.runner", "handler.formats", "handler.audio.fetch", "handler.speech", "handler.invented",
     "handler.assemble"),
    ("handler.whisper.weights", "handler.whisper.step", "handler.dropin"),
    ("handler.whisper.search",),
    ("handler.whisper.outcome",),
    ("handler.reader", "handler.intake", "handler.order", "handler.whisper.engine"),
    ("handler.resume",),
    ("handler.request",),
    ("handler.pipeline",),
    ("handler.start", "handler.upload", "handler.updates"),
    ("handler.job",),
    ("handler.delivery",),
    ("handler.doctor", "handler.health"),
    ("handler.desk", "handler.submit"),
    ("handler.worker", "handler.cli", "local_server.errors", "local_server.front", "local_server.form"),
    ("local_server.openapi", "local_server.body", "local_server.linger", "local_server.metrics", "local_server.web_page"),
    ("local_server.sse",),
    ("local_server.openai_schema", "local_server.gate"),
    ("local_server.openai_api",),
    ("local_server.app",),
    ("handler.__main__", "local_server.__main__"),
    ("handler.audio", "handler.whisper", "local_server"),
)  # fmt: skip
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}
FILES = [path for top in ("handler", "local_server") for path in sorted((ROOT / top).rglob("*.py"))]
EXPECTED_LINES = 350


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in LEVEL else str(node.module) for name in names}
    return {name for name in found if name.split(".")[0] in ("handler", "local_server")}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_imports_only_from_lower_levels(path: Path) -> None:
    module = module_of(path)
    assert module in LEVEL, "every module has its level"
    upward = {name for name in imports_of(ast.parse(path.read_text())) if LEVEL[name] >= LEVEL[module]}
    assert not upward


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_says_what_it_is_and_stays_small(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    assert len(text.splitlines()) <= EXPECTED_LINES
    longest = max((node.end_lineno - node.lineno for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                   and node.end_lineno), default=0)  # fmt: skip
    assert longest <= 60
