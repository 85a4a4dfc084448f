"""The HTTP server on loopback: in this process on the shared pipeline of the tests, or as a process of its own."""

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
from starlette.types import ASGIApp

from handler.audio.fetch import Fetcher
from handler.settings import Settings
from handler.transcription.admission import Admission
from handler.transcription.pipeline import Pipeline
from local_server.__main__ import create_app, uvicorn_config
from local_server.protocol.connections import ConnectionRegistry
from tests.conftest import ROOT, TINY, settings

TIMEOUT_S = 60.0  # after which a test that still waits fails


def wait_until(condition: Callable[[], object]) -> None:
    """Poll a condition until it is true."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"


@dataclass
class Server:
    """The address of a server."""

    url: str


class RunningServer:
    """Serve an application on a port of loopback for the time of a block.

    The server holds at most `max_connections`, and a client has `head_s` seconds to send a request head.
    """

    def __init__(self, app: ASGIApp, max_connections: int = 1000, head_s: float = TIMEOUT_S) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = uvicorn.Server(uvicorn_config(app, ConnectionRegistry(max_connections), head_s=head_s))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)
        self.server = Server(f"http://127.0.0.1:{self._listener.getsockname()[1]}")

    def __enter__(self) -> Server:
        self._thread.start()
        return self.server

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()


class UnclosedPipeline(Pipeline):
    """The shared pipeline of the tests with other settings; a server that stops does not close it."""

    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        self.__dict__ |= pipeline.__dict__
        self.settings = settings
        self.fetcher = Fetcher(settings)
        self._admission = Admission(settings.max_requests)
        self.resources = replace(pipeline.resources, settings=settings, fetcher=self.fetcher)

    def close(self) -> None:
        pass


@contextmanager
def serving(pipeline: Pipeline, **changes: object) -> Iterator[Server]:
    """Serve the pipeline with changed settings; yield the server once it is ready."""
    app = create_app(settings(**changes), lambda changed_settings: UnclosedPipeline(pipeline, changed_settings))
    with RunningServer(app) as server, httpx.Client(base_url=server.url) as client:
        wait_until(lambda: client.get("/hc").status_code == 200)
        yield server


def free_port() -> int:
    """Return a port of loopback on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def spawn_server(**variables: str) -> Iterator[tuple["subprocess.Popen[bytes]", Server]]:
    """Run `python -m local_server` with Whisper tiny.en; yield the process and its address once the model is loaded."""
    port = str(free_port())
    address = {"HOST": "127.0.0.1", "PORT": port}
    environment = {**os.environ, "MODEL_ID": TINY, "PYTHONPATH": str(ROOT), **address, **variables}
    command = [sys.executable, "-m", "local_server"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            while b'"ready"' not in (line := process.stderr.readline()):
                assert line, "the server ended"
            server = Server(f"http://127.0.0.1:{port}")
            wait_until(lambda: httpx.get(f"{server.url}/hc").status_code == 200)
            yield process, server
        except BaseException:
            process.kill()  # a test that failed does not wait for its server
            raise


def read_metrics(server: Server) -> dict[str, float]:
    """Return every sample of /metrics by its name with labels."""
    with urllib.request.urlopen(f"{server.url}/metrics") as response:
        lines = response.read().decode().splitlines()
    metrics: dict[str, float] = {}
    for line in lines:
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            metrics[name] = float(value)
    return metrics
