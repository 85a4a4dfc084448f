"""TRUST_REMOTE_CODE: a checkpoint that brings the code of its network runs if it may, and is refused if not."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from handler.errors import ModelUnavailable
from tests.conftest import ROOT
from tests.support.hub_engine import engine_for
from tests.support.hub_models import save_model

CODE = """
import sys
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

print("the checkpoint's code runs", file=sys.stderr)

class OwnConfig(Wav2Vec2Config):
    model_type = "own_network"

class OwnForCTC(Wav2Vec2ForCTC):
    config_class = OwnConfig
"""
AUTO_MAP = {"AutoConfig": "own.OwnConfig", "AutoModelForCTC": "own.OwnForCTC"}
RUN = """
import os, sys
from handler.settings import Settings
from handler.startup.bootstrap import build
settings = Settings(model_id=sys.argv[1], device="cpu", dtype="float32", trust_remote_code=True, startup_check=False)
pipeline = build(settings)
print(pipeline.engine.capabilities.word_times, os.environ["HF_MODULES_CACHE"])
pipeline.close()
"""


def save_own(folder: Path, auto_map: dict[str, str]) -> Path:
    """Save a small network with code of its own."""
    save_model("wav2vec2", folder)
    change_config(folder, model_type="own_network", auto_map=auto_map)
    (folder / "own.py").write_text(CODE)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_code_runs_where_it_is_trusted_and_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, str(save_own(tmp_path / "model", AUTO_MAP))]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    word_times, folder = done.stdout.split()
    assert word_times == "True"
    assert "the checkpoint's code runs" in done.stderr
    assert done.stderr.startswith("remote_code_trusted")
    assert not Path(folder).exists()


def test_code_that_is_not_trusted_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_own(tmp_path / "model", AUTO_MAP)
    with pytest.raises(ModelUnavailable, match=r"model_type own_network .*TRUST_REMOTE_CODE=1"):
        engine_for(folder)
    assert "code runs" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("auto_map", "expected"),
    [
        ({"AutoConfig": "own.OwnConfig", "AutoModel": "own.Own"}, "AutoModelForCTC or AutoModelForSpeechSeq2Seq"),
        (AUTO_MAP | {"AutoModelForCTC": "a/b--own.OwnForCTC"}, "code of another repository, a/b--own.OwnForCTC"),
    ],
    ids=["no speech recognition", "code of others"],
)
def test_code_that_recognizes_no_speech_or_lies_elsewhere_is_refused(
    tmp_path: Path, auto_map: dict[str, str], expected: str
) -> None:
    folder = save_own(tmp_path / "model", auto_map)
    with pytest.raises(ModelUnavailable, match=expected):
        engine_for(folder, trust_remote_code=True)


def save_own_tokenizer(folder: Path, name: str) -> Path:
    """Save a network that `transformers` has, with a tokenizer that it has not."""
    save_model("wav2vec2", folder)
    file = folder / "tokenizer_config.json"
    auto_map = {"AutoTokenizer": [name, None]}
    file.write_text(json.dumps({**json.loads(file.read_text()), "tokenizer_class": "Own", "auto_map": auto_map}))
    (folder / "own.py").write_text("raise RuntimeError('the code of the tokenizer runs')")
    return folder


def test_a_tokenizer_with_code_of_its_own_runs_where_it_is_trusted_and_never_asks(tmp_path: Path) -> None:
    folder = save_own_tokenizer(tmp_path / "model", "own.OwnTokenizer")
    with pytest.raises(ModelUnavailable, match="MODEL_ID"):
        engine_for(folder)
    with pytest.raises(ModelUnavailable, match="the code of the tokenizer runs"):
        engine_for(folder, trust_remote_code=True)


@pytest.mark.parametrize("name", ["a/b--own.Own", "../own.Own", "a/own.Own"])
def test_a_tokenizer_with_code_of_others_is_refused(tmp_path: Path, name: str) -> None:
    folder = save_own_tokenizer(tmp_path / "model", name)
    with pytest.raises(ModelUnavailable, match="runs code of another repository"):
        engine_for(folder, trust_remote_code=True)
