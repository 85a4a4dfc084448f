"""The configuration of a folder chooses the engine, and nothing of the other one is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from handler.startup.engine_loader import is_whisper
from tests.conftest import ROOT, TINY

MODULES_AT_READY = """
import sys
from handler.settings import Settings
from handler.startup.bootstrap import build
pipeline = build(Settings(model_id=sys.argv[1], device="cpu", dtype="float32"))
print(sorted({name.partition(".")[0] for name in sys.modules} & {"transformers", "torchaudio", "PIL", "sklearn"}))
print("handler.whisper.engine" in sys.modules, "handler.hub.engine" in sys.modules)
pipeline.close()
"""


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ('{"model_type": "whisper"}', True),
        ("{}", True),  # of CTranslate2
        ("[]", True),
        ("{", True),  # the engine's loader says what is wrong with it
        (None, True),
        ('{"model_type": "wav2vec2"}', False),
        ('{"model_type": 3}', False),
    ],
)
def test_the_configuration_says_whether_a_folder_is_for_whisper(
    tmp_path: Path, config: str | None, expected: bool
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert is_whisper(tmp_path) is expected


def modules_at_ready(model_id: str) -> list[str]:
    command = [sys.executable, "-c", MODULES_AT_READY, model_id]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()


def test_a_whisper_process_imports_nothing_of_transformers() -> None:
    assert modules_at_ready(TINY) == ["[]", "True False"]


def test_a_process_with_another_model_imports_nothing_of_our_whisper() -> None:
    imported, engines = modules_at_ready(str(ROOT / "tests/assets/parakeet"))
    assert "transformers" in imported
    assert "sklearn" not in imported
    assert engines == "False True"


def test_a_model_of_an_unknown_type_ends_the_start_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    command = [sys.executable, "-m", "handler.cli", "doctor"]
    environment = {"MODEL_ID": str(tmp_path), "DEVICE": "cpu", "PATH": "/usr/bin:/bin"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert "model_type bert: expected one of" in process.stdout + process.stderr
