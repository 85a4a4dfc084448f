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

EXIT_TIMEOUT_S = 60.0
ENVIRONMENT = {**os.environ, "MODEL_ID": TINY, "DTYPE": "float32", "PYTHONPATH": str(ROOT)}
DEVICE_LOSS_CODE = """
import sys
from handler import worker
from handler.__main__ import main

def fail(): raise RuntimeError("the device fell off the bus")

worker.pipeline.engine.advance = fail
main()
"""  # a worker that loses its device with its first job


class Worker:
    """A worker process for the time of a block, with the events that it logs."""

    def __init__(self, queue: Queue, log: Path, name: str = "worker", code: str | None = None, **changes: str) -> None:
        """Start `python -m handler`, or Python with `code`; `changes` are environment variables."""
        self._queue = queue
        self._name = name
        self._log = log
        variables = {"RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS": "true", **changes}
        environment = {**ENVIRONMENT, **queue.environment(name), **variables}
        command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "handler"]
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=file)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the logged events of a name."""
        events = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [event for event in events if event["event"] == name]

    def stop(self) -> int:
        """Send SIGTERM, wait for the process to end, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(EXIT_TIMEOUT_S)
        self._queue.disconnect(self._name)
        return code

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._queue.disconnect(self._name)
