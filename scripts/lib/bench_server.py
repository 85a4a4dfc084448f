"""This worker as its users meet it: the HTTP server in a process of its own, clients, a file server on loopback."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import requests

from handler.settings import Settings
from scripts.lib.listening import Spoken
from scripts.lib.peers import ROOT, peak_bytes
from tests.support.loopback import Loopback, QuietHandler

REPLY_S = 24 * 3600.0
START_S = 600.0  # a large model may have to be read from a slow disk
POLL_S = 0.05


DECODING = re.compile(r'asr_decoding_seconds_total\{temperature="(.+)"\} (.+)')


@dataclass(frozen=True, slots=True)
class Reply:
    """What one client got."""

    text: str | None  # None: refused, or lost
    seconds: float


def clean_environment(folder: Path, threads: int, device: str) -> dict[str, str]:
    """The environment of a process of ours: what is set outside would be measured and not told."""
    mine = {setting.metadata["name"] for setting in fields(Settings)}
    return {
        **{name: value for name, value in os.environ.items() if name not in mine},
        "MODEL_ID": str(folder),
        "DEVICE": device,
        "LOG_LEVEL": "WARNING",
        "OMP_NUM_THREADS": str(threads),
        "RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS": "true",
    }


def wait_until_ready(process: subprocess.Popen[bytes], is_ready: Callable[[], bool], log: Path) -> None:
    """Wait until a server that was started is ready. One that does not start is ended. Raises RuntimeError."""
    end = time.monotonic() + START_S
    while not is_ready():
        if process.poll() is not None or time.monotonic() > end:
            process.terminate()
            process.wait()
            raise RuntimeError(f"the server did not start; {log} says why")
        time.sleep(POLL_S)


class Server:
    """`python -m local_server` for the time of a block."""

    def __init__(
        self, folder: Path, threads: int, device: str, log: Path, variables: Mapping[str, str] | None = None
    ) -> None:
        """Prepare to start it with a model. `variables` are further ones of its environment."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._environment = clean_environment(folder, threads, device) | {"HOST": "127.0.0.1", "PORT": str(port)}
        self._environment |= variables or {}
        self._log = log

    def __enter__(self) -> "Server":
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "local_server"], cwd=ROOT, env=self._environment, stderr=log
            )
        wait_until_ready(self._process, self._is_ready, self._log)
        return self

    def _is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/hc", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def device_seconds(self) -> dict[str, float]:
        """The seconds of decoding until now, by temperature."""
        lines = requests.get(f"{self.url}/metrics", timeout=5).text.splitlines()
        found = (DECODING.fullmatch(line) for line in lines)
        return {match[1]: float(match[2]) for match in found if match}

    def peak_bytes(self) -> int:
        """The most memory that the process has held until now."""
        return peak_bytes(self._process.pid)

    def held_bytes(self) -> int:
        """The memory that it holds now."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def temporary_files(self) -> int:
        """Files without a name that it holds open."""
        return sum(
            str(entry.readlink()).endswith("(deleted)") for entry in Path(f"/proc/{self._process.pid}/fd").iterdir()
        )

    def upload(self, path: Path) -> Reply:
        """Send a file as the body."""
        return self._asked(data=path.read_bytes(), headers={"Content-Type": "application/octet-stream"})

    def address(self, url: str) -> Reply:
        """Name an address to download from."""
        return self._asked(json={"url": url})

    def _asked(self, **given: Any) -> Reply:
        began = time.perf_counter()
        try:
            answer = requests.post(f"{self.url}/asr", params={"language": "en"}, timeout=REPLY_S, **given)
        except requests.RequestException:
            return Reply(None, time.perf_counter() - began)
        return Reply(answer.json()["text"] if answer.ok else None, time.perf_counter() - began)

    def clients(self, count: int, files: Sequence[Spoken]) -> tuple[list[Reply], float]:
        """The replies to files that so many clients send, each one after the other; and seconds in all."""
        began = time.perf_counter()
        with ThreadPoolExecutor(count) as pool:
            replies = list(pool.map(lambda file: self.upload(file.path), files))
        return replies, time.perf_counter() - began

    @contextmanager
    def watched(self) -> Iterator[Callable[[], float]]:
        """Asks for /hc all the time; gives what tells the slowest answer, in seconds, once the block is over.

        By a process of its own: this one also sends files and reads long answers, and would wait for itself.
        """
        slowest = [float("inf")]
        command = [sys.executable, "-m", "scripts.lib.bench_server", f"{self.url}/hc"]
        watcher = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            yield lambda: slowest[0]
        finally:
            slowest[0] = float(watcher.communicate()[0])


def watch(url: str) -> float:
    """The slowest answer of an address until stdin ends, seconds; infinity where one fails."""
    slowest, over = 0.0, threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    with requests.Session() as session:
        while not over.wait(POLL_S):
            began = time.perf_counter()
            try:
                session.get(url, timeout=60).raise_for_status()
            except requests.RequestException:
                return float("inf")
            slowest = max(slowest, time.perf_counter() - began)
    return slowest


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A web server on loopback with the files of a folder; its address."""

    class Files(QuietHandler, SimpleHTTPRequestHandler):
        pass

    server = Loopback(partial(Files, directory=str(folder)))
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


if __name__ == "__main__":
    print(watch(sys.argv[1]))
