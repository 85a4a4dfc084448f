"""The HTTP server on the pipeline of all tests, on loopback."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import httpx
import uvicorn

from handler.audio.fetch import Fetcher
from handler.settings import Settings
from handler.transcription.pipeline import Pipeline
from local_server.__main__ import create_app
from local_server.lifespan import LifespanApp
from tests.conftest import ROOT, TINY, settings

FAIL_S = 60.0  # a test that would wait for ever


def until(condition: Callable[[], object]) -> None:
    """Ask again and again."""
    end = time.monotonic() + FAIL_S
    while not condition():
        assert time.monotonic() < end, "it did not come true"


@dataclass
class Server:
    url: str


class Running:
    """An application behind a real server, for the time of a block."""

    def __init__(self, app: LifespanApp) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)
        self.server = Server(f"http://127.0.0.1:{self._listener.getsockname()[1]}")

    def __enter__(self) -> Server:
        self._thread.start()
        return self.server

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()


class Kept(Pipeline):
    """The pipeline of all tests, which a server that stops does not close."""

    def __init__(self, pipeline: Pipeline, changed: Settings) -> None:
        self.__dict__ |= pipeline.__dict__
        self.settings = changed
        self.fetcher = Fetcher(changed)
        self._shared = replace(pipeline._shared, settings=changed, fetcher=self.fetcher)

    def close(self) -> None:
        pass


@contextmanager
def serving(pipeline: Pipeline, **changes: object) -> Iterator[Server]:
    """The server with changed settings, once it is ready."""
    with (
        Running(create_app(settings(**changes), lambda given: Kept(pipeline, given))) as running,
        httpx.Client(base_url=running.url) as made,
    ):
        until(lambda: made.get("/hc").status_code == 200)
        yield running


@contextmanager
def spawned(**variables: str) -> Iterator[tuple["subprocess.Popen[bytes]", Server]]:
    """`python -m local_server` on Whisper tiny.en as a process of its own, once its model is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = {**os.environ, "MODEL_ID": TINY, "HOST": "127.0.0.1", "PORT": port, "PYTHONPATH": str(ROOT), **variables}
    with subprocess.Popen([sys.executable, "-m", "local_server"], env=environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while b'"ready"' not in (line := process.stderr.readline()):
            assert line, "the server ended"
        yield process, Server(f"http://127.0.0.1:{port}")


def figures(server: Server) -> dict[str, float]:
    """What /metrics says."""
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
