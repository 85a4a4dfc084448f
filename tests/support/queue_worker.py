"""A worker in a process of its own, on a queue on loopback."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, TINY
from tests.support.sls_queue import Queue

ENVIRONMENT = {**os.environ, "MODEL_ID": TINY, "DTYPE": "float32", "PYTHONPATH": str(ROOT)}
SABOTAGED = """
import sys
from handler import worker
from handler.__main__ import main

def fail(): raise RuntimeError("the device fell off the bus")

worker.pipeline.engine.advance = fail
main()
"""  # a worker whose device is lost at its first job


class Worker:
    """Runs until the block is left; its log is at hand."""

    def __init__(self, queue: Queue, log: Path, name: str = "worker", code: str | None = None, **changes: str) -> None:
        self._queue = queue
        self._name = name
        self._log = log
        environment = {**ENVIRONMENT, **queue.environment(name), "RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS": "true", **changes}
        command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "handler"]
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=file)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of a name in its log."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def end(self) -> int:
        """Tell it to end; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self._queue.hang_up(self._name)
        return code

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._queue.hang_up(self._name)
