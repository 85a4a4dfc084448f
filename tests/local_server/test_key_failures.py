"""Test how refused keys are delayed and logged, with a clock of the test's own."""

import json
import logging
from collections.abc import Iterator

import httpx
import pytest

from handler.transcription.pipeline import Pipeline
from local_server.middleware import key_failures
from local_server.middleware.key_failures import KeyFailures
from tests.support.serving import serving


class Waits:
    """A clock that stands still, and the waits that were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seconds: list[float] = []
        self.failures = KeyFailures(lambda: self.now, self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)


async def test_the_delay_of_an_address_grows_to_a_bound_and_concerns_no_other() -> None:
    waits = Waits()
    for _ in range(20):
        await waits.failures.delay("192.0.2.1")
    assert len(waits.seconds) == 20 - key_failures.FREE_FAILURES
    assert waits.seconds == sorted(waits.seconds)
    assert (waits.seconds[0], waits.seconds[-1]) == (key_failures.FIRST_DELAY_S, key_failures.MAX_DELAY_S)
    await waits.failures.delay("192.0.2.2")
    assert len(waits.seconds) == 20 - key_failures.FREE_FAILURES


async def test_an_address_that_stops_failing_starts_anew() -> None:
    waits = Waits()
    for _ in range(20):
        await waits.failures.delay("192.0.2.1")
    waits.now = key_failures.FORGET_S + 1
    waits.seconds.clear()
    await waits.failures.delay("192.0.2.1")
    assert waits.seconds == []


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("unknown", "unknown", True),
    ],
)
async def test_the_addresses_of_one_client_count_together(first: str, second: str, is_one: bool) -> None:
    waits = Waits()
    for _ in range(20):
        await waits.failures.delay(first)
    waits.seconds.clear()
    await waits.failures.delay(second)
    assert bool(waits.seconds) == is_one


async def test_no_more_addresses_are_remembered_than_the_bound() -> None:
    waits = Waits()
    for _ in range(20):
        await waits.failures.delay("192.0.2.1")
    for number in range(key_failures.MAX_ADDRESSES):
        await waits.failures.delay(f"10.0.{number // 256}.{number % 256}")
    waits.seconds.clear()
    await waits.failures.delay("192.0.2.1")
    assert waits.seconds == []


async def test_few_answers_wait_at_a_time() -> None:
    waits, nested = Waits(), 0

    async def sleep(seconds: float) -> None:
        nonlocal nested
        nested += 1
        await failures.delay("192.0.2.1")  # another failure, while this one waits

    failures = KeyFailures(lambda: waits.now, sleep)
    for _ in range(key_failures.FREE_FAILURES + 1):
        await failures.delay("192.0.2.1")
    assert nested == key_failures.MAX_DELAYED


def test_a_flood_gets_few_lines_which_count_the_rest() -> None:
    waits = Waits()
    flood = [waits.failures.unlogged_if_due("192.0.2.1") for _ in range(1000)]
    assert flood == [0] + [None] * 999
    others = [waits.failures.unlogged_if_due(f"198.51.100.{number}") for number in range(100)]
    assert others[: key_failures.MAX_LOG_LINES] == [999] + [0] * (key_failures.MAX_LOG_LINES - 2) + [None]
    waits.now = key_failures.LOG_INTERVAL_S
    assert waits.failures.unlogged_if_due("192.0.2.1") == 100 - (key_failures.MAX_LOG_LINES - 1)


@pytest.fixture
def log() -> Iterator[list[logging.LogRecord]]:
    """Yield the records of this package's log."""
    records: list[logging.LogRecord] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    recorder, logger = Recorder(), logging.getLogger("asr")
    logger.addHandler(recorder)
    yield records
    logger.removeHandler(recorder)


def test_a_refused_key_is_logged_with_the_address_and_a_valid_one_is_served(
    pipeline: Pipeline, log: list[logging.LogRecord]
) -> None:
    with serving(pipeline, api_keys=("right key",)) as server, httpx.Client(base_url=server.url) as client:
        statuses = [client.get("/v1/models", headers={"X-API-Key": "wrong key"}).status_code for _ in range(4)]
        assert statuses == [401] * 4
        assert client.get("/v1/models", headers={"X-API-Key": "right key"}).status_code == 200
    (refusal,) = [record for record in log if record.getMessage() == "key_refused"]
    fields = refusal.__dict__["fields"]
    assert (refusal.levelname, fields["client"], fields["path"]) == ("WARNING", "127.0.0.1", "/v1/models")
    assert "wrong key" not in json.dumps(fields)
