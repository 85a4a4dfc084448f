"""BACKEND=openvino: networks that OpenVINO runs write what PyTorch writes, and are exported once.

Where optimum-intel is not installed, what can be seen without it is.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from handler.errors import ModelUnavailable
from handler.hub import openvino
from handler.hub.openvino import EXPORTABLE
from handler.schema.window import Window
from handler.settings import SettingsError
from handler.whisper.loading import load_engine as load_whisper
from tests.conftest import ROOT, settings
from tests.support.clips import clips
from tests.support.hub_engine import decode, engine_for, text_of
from tests.support.hub_models import save_model

LOAD = """
import sys
from pathlib import Path
from handler.hub.loading import load_engine
from handler.settings import Settings
settings = Settings(model_id=sys.argv[1], device="cpu", backend="openvino", cache_dir=Path(sys.argv[2]))
print(load_engine(Path(sys.argv[1]), "wav2vec2", settings).dtype_name, bool(sys.modules["openvino_telemetry"]))
"""
needs_optimum = pytest.mark.skipif(find_spec("optimum") is None, reason="needs optimum-intel: scripts/test_openvino")
NOISE = np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32)


@pytest.fixture(scope="module", params=EXPORTABLE)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(request.param, tmp_path_factory.mktemp("model") / "model")


@needs_optimum
def test_every_family_writes_what_pytorch_writes(folder: Path, tmp_path: Path) -> None:
    windows = [Window(0, clips()[1].samples), Window(0, NOISE), Window(0, NOISE[::-1].copy())]
    engine = engine_for(folder, backend="openvino", dtype="float32", cache_dir=tmp_path)
    expected, found = decode(engine_for(folder), windows), decode(engine, windows)
    assert [text_of(result) for result in found] == [text_of(result) for result in expected]
    assert any(map(text_of, found))
    words, words_expected = (
        [word for result in results for segment in result.segments for word in segment.words]
        for results in (found, expected)
    )
    assert [(word.start, word.end) for word in words] == [(word.start, word.end) for word in words_expected]
    assert np.allclose([word.probability for word in words], [word.probability for word in words_expected], atol=1e-3)
    assert (engine.dtype_name, engine.attention) == ("float32", "openvino")


@pytest.fixture
def wave(tmp_path: Path) -> Path:
    return save_model("wav2vec2", tmp_path / "model")


@needs_optimum
def test_an_export_is_kept_with_8_bits_and_made_again_only_if_it_is_damaged(
    wave: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def load() -> list[str]:
        """Load the checkpoint, and return the names of the events that this is worth."""
        engine = engine_for(wave, backend="openvino", dtype="auto", cache_dir=tmp_path)
        assert engine.dtype_name == "int8"
        assert text_of(decode(engine, [Window(0, NOISE)])[0])
        events = [record.message for record in caplog.records if record.message != "engine_loaded"]
        caplog.clear()
        return events

    caplog.set_level("INFO", "asr")
    assert load() == ["export_started", "export_finished"]
    assert load() == []
    (weights,) = tmp_path.glob("converted/*/openvino-int8/*.bin")
    assert b'element_type="u8"' in weights.with_suffix(".xml").read_bytes()
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert load() == ["kept_checkpoint_damaged", "export_started", "export_finished"]
    assert load() == []
    config = wave / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"final_dropout": 0.1}))
    assert load() == ["export_started", "export_finished"]


@needs_optimum
def test_an_export_serves_where_it_cannot_be_kept(wave: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    engine = engine_for(wave, backend="openvino", dtype="auto", cache_dir=tmp_path / "file")
    assert text_of(decode(engine, [Window(0, NOISE)])[0])
    assert "conversion_not_kept" in caplog.messages


@needs_optimum
def test_an_export_without_checksums_is_made_again(wave: Path, tmp_path: Path) -> None:
    engine_for(wave, backend="openvino", dtype="auto", cache_dir=tmp_path)
    (sums,) = tmp_path.glob("converted/*/openvino-int8/sums.json")
    sums.unlink()
    engine_for(wave, backend="openvino", dtype="auto", cache_dir=tmp_path)
    assert sums.is_file()


@needs_optimum
def test_an_export_in_a_folder_that_cannot_be_written_is_used(
    wave: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_for(wave, backend="openvino", dtype="auto", cache_dir=tmp_path)
    caplog.set_level("INFO", "asr")

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    engine_for(wave, backend="openvino", dtype="auto", cache_dir=tmp_path)
    assert "export_started" not in caplog.messages


@needs_optimum
def test_nothing_is_reported_to_the_makers_of_openvino(wave: Path, tmp_path: Path) -> None:
    """Load an export in a process whose home is empty: the reporter would leave its files there."""
    command = [sys.executable, "-c", LOAD, str(wave), str(tmp_path / "cache")]
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT)}
    environment = {name: value for name, value in environment.items() if name not in ("CI", "PYTEST_CURRENT_TEST")}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["int8", "False"]
    assert not (home / "intel").exists()


@needs_optimum
def test_a_checkpoint_that_cannot_be_exported_is_told(wave: Path, tmp_path: Path) -> None:
    (wave / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelUnavailable, match="OpenVINO does not take the checkpoint"):
        engine_for(wave, backend="openvino", dtype="auto", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dtype": "float16"}, "DTYPE='float16': expected auto, for weights of 8 bits, or float32"),
        ({"model_id": str(ROOT / "tests/assets/parakeet"), "dtype": "auto"}, "BACKEND='openvino': expected pytorch"),
    ],
    ids=["dtype", "family"],
)
def test_what_openvino_cannot_do_is_refused_by_name(wave: Path, changes: dict[str, str], expected: str) -> None:
    folder = Path(changes.pop("model_id", str(wave)))
    with pytest.raises(SettingsError, match=expected):
        engine_for(folder, backend="openvino", **changes)


def test_whisper_runs_on_its_own_engine(tiny_folder: Path) -> None:
    with pytest.raises(SettingsError, match="BACKEND='openvino': expected pytorch: Whisper"):
        load_whisper(tiny_folder, settings(backend="openvino"))


def test_without_optimum_the_start_says_what_to_install(wave: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "find_spec", lambda name: None)
    with pytest.raises(ModelUnavailable, match=r"needs optimum-intel: pip install '\.\[openvino\]'"):
        engine_for(wave, backend="openvino", dtype="auto")
