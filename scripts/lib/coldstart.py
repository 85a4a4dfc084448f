"""From a process's start to its first answer, beside bare `import torch` and the peers. See scripts/coldstart."""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from tqdm import tqdm

from scripts.lib.bench_server import clean_environment
from scripts.lib.convert import BASE, TINY, checkpoint, converted
from scripts.lib.loading import Loading, cat, loaded, write_made_up
from scripts.lib.machine import machine, model_name
from scripts.lib.peers import ROOT
from tests.support.sls_queue import Queue

END_S = 120.0  # a process that is not ready by then has failed
POLL_S = 0.002
PEERS = str(ROOT / ".peers/bin/python")
KEPT = ROOT / ".bench"
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
TORCH = "bare `import torch`"
_HEAD = """# How soon a cold process is ready

Written by `scripts/coldstart`. Seconds are told as multiples of bare `import torch` by the same interpreter in the
same run, medians of rounds in which all take turns. A server is ready when it answers `/hc` with 200, a worker when a
queue on loopback has its first job's answer; the job lies there from the beginning. Machines are shared and noisy:
only ratios mean something.
"""


@dataclass(frozen=True, slots=True)
class Start:
    """How long one start took, and what the process said of it."""

    seconds: float
    stages: dict[str, float]


def torch_alone(log: Path) -> Start:
    """`python -c "import torch"` to its end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return Start(time.perf_counter() - began, {})


def server(command: list[str], environment: dict[str, str]) -> Callable[[Path], Start]:
    """A server until /hc says 200."""

    def start(log: Path) -> Start:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with log.open("wb") as file:
            began = time.perf_counter()
            given = {**environment, "HOST": "127.0.0.1", "PORT": str(port)}
            process = subprocess.Popen(command, cwd=ROOT, env=given, stdout=subprocess.DEVNULL, stderr=file)
            try:
                while not _says_ok(port):
                    _check_alive(process, began, log)
                    time.sleep(POLL_S)
                return Start(time.perf_counter() - began, _stages(log))
            finally:
                process.terminate()
                process.wait()

    return start


def worker(command: list[str], environment: dict[str, str]) -> Callable[[Path], Start]:
    """A queue worker until its first job is answered."""
    job = json.loads((ROOT / "test_input.json").read_text())["input"]

    def start(log: Path) -> Start:
        with Queue() as queue, log.open("wb") as file:
            queue.put("first", job)
            began = time.perf_counter()
            given = {**environment, **queue.environment(), "RUNPOD_LOG_LEVEL": "ERROR"}
            process = subprocess.Popen(command, cwd=ROOT, env=given, stdout=subprocess.DEVNULL, stderr=file)
            try:
                while "first" not in queue.answers:
                    _check_alive(process, began, log)
                    time.sleep(POLL_S)
                seconds = time.perf_counter() - began
                output = queue.answer("first").get("output", {})
            finally:
                process.kill()
                process.wait()
        if "text" not in output:
            raise SystemExit(f"{' '.join(command)} did not answer its job; {log} says why")
        return Start(seconds, output.get("timing", {}).get("cold_start", {}))

    return start


def _says_ok(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET /hc HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return connection.recv(100).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False


def _check_alive(process: "subprocess.Popen[bytes]", began: float, log: Path) -> None:
    if process.poll() is not None or time.perf_counter() - began > END_S:
        raise SystemExit(f"a process did not become ready; {log} says why")


def _stages(log: Path) -> dict[str, float]:
    """What our own server says when it is ready."""
    for line in log.read_text().splitlines():
        if '"event": "ready"' in line:
            return {name: value for name, value in json.loads(line).items() if isinstance(value, float)}
    return {}


def _drop_caches() -> None:
    os.sync()
    DROP_CACHES.write_text("3\n")


def _systems(model: str, threads: int, cache: str) -> dict[str, Callable[[Path], Start]]:
    """Everybody by name, bare PyTorch first."""
    ours = clean_environment(checkpoint(model), threads, "cpu") | {"CACHE_DIR": cache, "LOG_LEVEL": "INFO"}
    theirs = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    peers = str(ROOT / "scripts/lib/cold_peers.py")
    return {
        TORCH: torch_alone,
        "this worker as a server": server([sys.executable, "-m", "local_server"], ours),
        "the same with Whisper base": server(
            [sys.executable, "-m", "local_server"], ours | {"MODEL_ID": str(checkpoint(BASE))}
        ),
        "`cat` of base's file": lambda _: Start(cat(checkpoint(BASE) / "model.bin"), {}),
        "this worker on a queue": worker([sys.executable, "-m", "handler"], ours),
        "a server as asr-api is one": server([PEERS, peers, "asr-api", str(converted(model, "transformers"))], theirs),
        "a worker around faster-whisper": worker([PEERS, peers, "faster-whisper", str(checkpoint(model))], theirs),
    }


def _table(title: str, starts: dict[str, list[Start]], bare: float) -> Iterator[str]:
    yield f"\n## {title}\n"
    yield "| | of `import torch` | slowest |\n|---|---|---|"
    for name, found in starts.items():
        seconds = [start.seconds for start in found]
        yield f"| {name} | {median(seconds) / bare:.2f}× | {max(seconds) / bare:.2f}× |"


def _loading(cold_rounds: int, rounds: int) -> Iterator[str]:
    """A checkpoint of large-v3's shapes beside `cat`."""
    folder = KEPT / "made-up-large-v3"
    if not (folder / "model.safetensors").is_file():
        write_made_up(folder)
    yield "\n## A made-up checkpoint of large-v3's shapes, bfloat16, beside `cat`\n"
    columns = "page cache", "size", "read at, of `cat`'s speed", "read and packed", "peak memory, of the size"
    yield f"| {' | '.join(columns)} | less PyTorch's own |"
    yield "|---|---|---|---|---|---|"
    for title, count, cold in (("holds it", rounds, False), ("dropped before each", cold_rounds, True)):
        found = []
        for _ in range(count):
            if cold:
                _drop_caches()
            cat_s = cat(folder / "model.safetensors")
            if cold:
                _drop_caches()
            found.append(replace(loaded(folder), cat_s=cat_s))
        if found:
            size = (folder / "model.safetensors").stat().st_size
            speed, packed = (median(one.cat_s / seconds(one) for one in found) for seconds in (_load_s, _packed_s))
            peak, less = (median(took(one) / size for one in found) for took in (_peak, _own_peak))
            yield f"| {title} | {size / 2**30:.2f} GiB | {speed:.2f}× | {packed:.2f}× | {peak:.2f}× | {less:.2f}× |"


def _load_s(one: Loading) -> float:
    return one.load_s


def _packed_s(one: Loading) -> float:
    return one.load_s + one.pack_s


def _peak(one: Loading) -> float:
    return float(one.peak_bytes)


def _own_peak(one: Loading) -> float:
    return float(one.peak_bytes - one.empty_bytes)


def _timeline(name: str, found: list[Start], bare: float) -> Iterator[str]:
    """Where the time of the start went that took the middle time."""
    middle = sorted(found, key=lambda start: start.seconds)[len(found) // 2]
    if middle.stages:
        yield f"\n{name}: where the time of a start went. Stages of several threads overlap;"
        yield "`ready` and `total` count from the start.\n"
        yield "| stage | of `import torch` |\n|---|---|"
        yield from (f"| {stage} | {seconds / bare:.3f}× |" for stage, seconds in middle.stages.items())


def main() -> None:
    """Start everybody in turns and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default=TINY, help="a checkpoint in CTranslate2's layout as in MODEL_ID, or `base`")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold-rounds", type=int, default=3, help="with the page cache dropped, where this user may")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/measurements/cold-start.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        systems = _systems(given.model, given.threads, cache)
        log = Path(cache) / "log"
        for start in systems.values():  # files come into the page cache, ours keeps its conversion
            start(log)
        parts = [("Files in the page cache", given.rounds, False)]
        if os.access(DROP_CACHES, os.W_OK) and given.cold_rounds:
            parts.append(("Page cache dropped before each start", given.cold_rounds, True))
        lines = [_HEAD, f"{model_name(given.model)} on {machine('cpu')}, {given.threads} threads."]
        for title, rounds, cold in parts:
            starts: dict[str, list[Start]] = {name: [] for name in systems}
            with tqdm(total=rounds * len(systems), desc=title) as bar:
                for _ in range(rounds):
                    for name, start in systems.items():
                        if cold:
                            _drop_caches()
                        starts[name].append(start(log))
                        bar.update()
            bare = median(start.seconds for start in starts[TORCH])
            lines += _table(f"{title}, {rounds} rounds", starts, bare)
            for name in systems:
                lines += _timeline(name, starts[name], bare)
    lines += _loading(given.cold_rounds if os.access(DROP_CACHES, os.W_OK) else 0, given.rounds)
    given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
