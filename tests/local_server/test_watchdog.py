"""A server that cannot decode audio any more says so, tries to mend it, and ends if it cannot."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from handler.audio.process_pool import AudioProcessPool
from handler.errors import OutOfMemory
from handler.transcription.pipeline import Pipeline
from local_server.__main__ import create_app
from local_server.watchdog import await_lost_decoding
from tests.conftest import settings
from tests.support.asking import error_of, upload
from tests.support.fake_engine import FakeEngine
from tests.support.serving import RunningServer
from tests.support.speech import silence, wav

SILENCE = wav(silence(0.5))


class BrokenPool(AudioProcessPool):
    """A pool whose supervisor does not start while `is_broken`, as without memory for another process."""

    is_broken = True

    def _start(self) -> None:
        if self.is_broken:
            raise OSError("no more processes")
        super()._start()


@pytest.fixture
def pool() -> Iterator[BrokenPool]:
    pool = BrokenPool()
    yield pool
    pool.close()


@pytest.fixture
def broken(pool: BrokenPool) -> Iterator[Pipeline]:
    pipeline = Pipeline(FakeEngine(), settings())
    pipeline.resources = replace(pipeline.resources, audio_processes=pool)
    yield pipeline
    pipeline.close()


async def test_a_pool_that_cannot_start_is_given_up_and_mended(broken: Pipeline, pool: BrokenPool) -> None:
    assert broken.fault is None
    error = await error_of(broken, upload(SILENCE))
    assert (error.code, error.retryable) == (OutOfMemory.code, True)
    assert broken.fault is not None
    assert broken.fault.code == "decoding_lost"
    pool.is_broken = False
    await asyncio.to_thread(broken.mend)
    assert broken.fault is None


async def test_the_health_check_tells_why_nothing_is_decoded(broken: Pipeline, pool: BrokenPool) -> None:
    await error_of(broken, upload(SILENCE))
    with RunningServer(create_app(settings(), lambda _: broken)) as server:
        async with httpx.AsyncClient(base_url=server.url) as client:
            while (await client.get("/hc")).json()["status"] == "starting":
                pass
            answer = await client.get("/hc")
            assert answer.status_code == 503
            assert "no more processes" in answer.json()["reason"]
            refused = await client.post("/asr", content=b"?")
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "decoding_lost"


async def test_the_watch_ends_only_if_nothing_helps(broken: Pipeline, pool: BrokenPool) -> None:
    await error_of(broken, upload(SILENCE))
    await asyncio.wait_for(await_lost_decoding(broken, 0.0, 0.0), 60)  # nothing has helped
    pool.is_broken = False
    watch = asyncio.create_task(await_lost_decoding(broken, 0.0, 3600.0))
    while broken.fault is not None:
        await asyncio.to_thread(lambda: None)
    assert not watch.done()
    watch.cancel()


async def test_a_server_that_was_mended_at_the_last_moment_goes_on(broken: Pipeline, pool: BrokenPool) -> None:
    await error_of(broken, upload(SILENCE))
    mends = list[bool]()

    def mend() -> None:
        pool.is_broken = False
        mends.append(True)
        Pipeline.mend(broken)

    broken.mend = mend  # type: ignore[method-assign]
    watch = asyncio.create_task(await_lost_decoding(broken, 0.0, 0.0))
    while not mends or broken.fault is not None:
        await asyncio.to_thread(lambda: None)
    for _ in range(10):
        await asyncio.to_thread(lambda: None)
    assert not watch.done()
    watch.cancel()
