"""The HTTP server on the pipeline of all tests, on loopback."""

import socket
import threading
from dataclasses import dataclass, replace

import uvicorn

from handler.audio.fetch import Fetcher
from handler.pipeline import Pipeline
from handler.settings import Settings
from local_server.front import Front


@dataclass
class Server:
    url: str


class Running:
    """An application behind a real server, for the time of a block."""

    def __init__(self, app: Front) -> None:
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
