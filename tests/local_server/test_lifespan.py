"""Test the start of the server: it is ready once everything is there, and what fails later does not end it."""

import threading
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from handler.settings import Settings
from local_server.lifespan import LifespanApp
from local_server.state import ServerState
from tests.conftest import settings
from tests.support.serving import RunningServer, wait_until


class FakePipeline:
    """A pipeline that has no fault, cannot prepare downloads, and can be closed."""

    def __init__(self) -> None:
        self.fault = None
        self.is_closed = self.was_prepared = False

    def prepare_downloads(self) -> None:
        self.was_prepared = True
        raise OSError(24, "Too many open files")

    def close(self) -> None:
        self.is_closed = True


class Routes:
    """Makes the application with all routes once `may_finish` is set, after having failed `failures` times."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.calls = 0
        self.may_finish = threading.Event()

    def __call__(self, state: ServerState) -> ASGIApp:
        assert self.may_finish.wait(60)
        self.calls += 1
        if self.calls <= self.failures:
            raise OSError(24, "Too many open files")
        return PlainTextResponse("a route")


def start(routes: Routes, pipeline: FakePipeline, has_failed: threading.Event) -> LifespanApp:
    """Return a server that makes its routes while its pipeline is built, as `python -m local_server` does."""

    def build(_: Settings) -> Any:
        app.prepare_early()
        return pipeline

    app = LifespanApp(ServerState(settings()), build, routes, lambda _: has_failed.set())
    return app


@pytest.mark.parametrize("failures", [0, 1])
def test_the_server_is_ready_once_its_routes_are_there(failures: int) -> None:
    routes, pipeline, has_failed = Routes(failures), FakePipeline(), threading.Event()
    with (
        RunningServer(start(routes, pipeline, has_failed)) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        assert client.get("/hc").status_code == 503
        routes.may_finish.set()
        wait_until(lambda: client.get("/hc").status_code == 200)
        assert client.get("/any").text == "a route"
        wait_until(lambda: pipeline.was_prepared)
        assert client.get("/hc").status_code == 200  # downloads that cannot be prepared do not end a server
    assert routes.calls == failures + 1
    assert not has_failed.is_set()


@pytest.mark.filterwarnings("ignore")
def test_routes_that_cannot_be_made_are_a_fault_with_its_reason() -> None:
    routes, pipeline, has_failed = Routes(failures=9), FakePipeline(), threading.Event()
    routes.may_finish.set()
    with RunningServer(start(routes, pipeline, has_failed)) as server:
        assert has_failed.wait(60)
        answer = httpx.get(f"{server.url}/hc")
    assert (answer.status_code, answer.json()["status"]) == (503, "failed")
    assert "Too many open files" in answer.json()["reason"]
    assert pipeline.is_closed


def test_a_request_before_the_start_ends_does_not_make_the_routes_twice() -> None:
    routes = Routes()
    with RunningServer(start(routes, FakePipeline(), threading.Event())) as server:
        answers: list[str] = []
        thread = threading.Thread(target=lambda: answers.append(httpx.get(f"{server.url}/any", timeout=60).text))
        thread.start()
        routes.may_finish.set()
        thread.join()
    assert answers == ["a route"]
    assert routes.calls == 1


def test_a_route_that_breaks_down_is_answered_as_every_error_is(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    app = LifespanApp(ServerState(settings()), lambda _: FakePipeline(), lambda _: broken, lambda _: None)  # type: ignore[arg-type, return-value]
    with RunningServer(app) as server:
        answer = httpx.get(f"{server.url}/asr")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert [record.message for record in caplog.records if record.message == "request_crashed"] == ["request_crashed"]
