"""Test the state of the server: its health from the start of the process to the loss of its device."""

import io
from collections.abc import Iterator

import numpy as np
import pytest

from handler import __version__
from handler.audio.source import AudioSource
from handler.engine.runner import FATAL_FAILURES
from handler.errors import DeviceLost, Internal, ModelUnavailable
from handler.schema.options import Options
from handler.schema.window import SAMPLE_RATE
from handler.transcription.pipeline import Pipeline
from local_server.metrics import Metrics
from local_server.state import ServerState
from tests.conftest import settings
from tests.support.fake_engine import FakeEngine
from tests.support.speech import wav

NOISE = np.random.default_rng(0).uniform(-0.1, 0.1, SAMPLE_RATE).astype(np.float32)
STARTING = {None: (503, {"status": "starting"}), 8001: (204, None)}  # by PORT_HEALTH


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def fake_pipeline(engine: FakeEngine) -> Iterator[Pipeline]:
    pipeline = Pipeline(engine, settings())
    yield pipeline
    pipeline.close()


def is_ready(state: ServerState) -> bool:
    return b"\nasr_ready 1.0\n" in Metrics(state).text()


@pytest.mark.parametrize("port_health", STARTING)
def test_a_server_is_starting_until_it_has_a_pipeline(fake_pipeline: Pipeline, port_health: int | None) -> None:
    state = ServerState(settings(port_health=port_health))
    assert state.health() == STARTING[port_health]
    assert not is_ready(state)
    with pytest.raises(ModelUnavailable, match="is being loaded") as caught:
        state.require_pipeline()
    assert caught.value.retryable
    state.pipeline = fake_pipeline
    assert state.health() == (200, {"status": "ok", "version": __version__})
    assert is_ready(state)
    assert state.require_pipeline() is fake_pipeline


@pytest.mark.parametrize("port_health", STARTING)
def test_a_server_that_cannot_start_has_failed_with_the_reason(port_health: int | None) -> None:
    state = ServerState(settings(port_health=port_health))
    state.fault = "model.bin is cut"
    assert state.health() == (503, {"status": "failed", "reason": "model.bin is cut"})
    assert not is_ready(state)
    with pytest.raises(ModelUnavailable, match=r"model\.bin is cut"):
        state.require_pipeline()


@pytest.mark.parametrize("port_health", STARTING)
async def test_a_server_that_loses_its_device_has_failed_and_takes_no_request(
    engine: FakeEngine, fake_pipeline: Pipeline, port_health: int | None
) -> None:
    state = ServerState(settings(port_health=port_health))
    state.pipeline = fake_pipeline
    engine.failure = RuntimeError("boom")
    for _ in range(FATAL_FAILURES):
        assert state.health()[0] == 200
        source = AudioSource(file=io.BytesIO(wav(NOISE)))
        with pytest.raises(Internal):
            await state.require_pipeline().transcribe(source, Options(vad=False))
    status, body = state.health()
    assert status == 503
    assert body is not None
    assert body["status"] == "failed"
    assert body["reason"].startswith("device_lost: the device is lost")
    assert not is_ready(state)
    with pytest.raises(DeviceLost):
        state.require_pipeline()
