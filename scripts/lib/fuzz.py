"""Send damaged files to a server for some minutes, in several ways, with clips beside them. See scripts/fuzz."""

import argparse
import base64
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import httpx
from tqdm import tqdm

from handler.schema.options import Options
from scripts.lib.machine import machine
from tests.support.fuzzing import MAX_CPU_S, WatchedPool, corpus, damaged_files, decode_damaged, mutate
from tests.support.serving import Server, spawn_server
from tests.support.speech import FOX, say, wav
from tests.support.word_errors import word_error_rate

GOOD = {200, 400, 413, 415, 422}  # what a server may answer to whatever is sent
BATCH = 50  # files between two looks at the clock
CLIENTS = 4
MAX_HEALTH_S, MAX_GROWTH_BYTES = 0.1, 300 * 1024**2
VALUES: tuple[object, ...] = (None, True, -1, 0, 2**70, 1e400, "", "x", "9" * 5000, "\ud800", [], [[]], {}, [None], 0.5)


@dataclass(slots=True)
class Findings:
    """What was seen so far."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    health_s: list[float] = field(default_factory=list)
    clips_s: list[float] = field(default_factory=list)

    def add(self, way: str, outcome: str, fault: str | None, data: bytes, folder: Path) -> None:
        """Count an outcome, and keep the file that led to a fault."""
        self.outcomes[f"{way}: {outcome}"] += 1
        if fault is not None:
            path = folder / f"{len(self.faults)}.bin"
            path.write_bytes(data)
            self.faults.append(f"{way}: {fault}: {path}")


def main() -> None:
    """Run for the given time, print the counts, and exit with 1 if anything happened that must not."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20, help="how long to go on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files (default: %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path(".fuzz"), help="folder for files that led to a fault")
    given = parser.parse_args()
    given.keep.mkdir(exist_ok=True)
    findings = Findings()
    print(f"on {machine('cpu')}", flush=True)
    decode_until(time.monotonic() + given.minutes * 30, given.seed, findings, given.keep)
    serve_until(time.monotonic() + given.minutes * 30, given.seed, findings, given.keep)
    for name, count in sorted(findings.outcomes.items()):
        print(f"{count:8} {name}")
    print(f"/hc: median {median(findings.health_s) * 1000:.0f} ms, longest {max(findings.health_s) * 1000:.0f} ms")
    print(f"clips beside them: {len(findings.clips_s)}, median {median(findings.clips_s):.2f} s")
    print(f"faults: {len(findings.faults)}", *findings.faults, sep="\n")
    sys.exit(bool(findings.faults))


def decode_until(end: float, seed: int, findings: Findings, folder: Path) -> None:
    """Decode every beginning of every file's header, and then damaged files, in audio processes without a server."""
    pool = WatchedPool()
    try:
        for name, data in tqdm(corpus().items(), "beginnings"):
            for size in range(min(len(data), 200)):
                outcome = decode_damaged(pool, data[:size])
                findings.add(
                    "beginning", outcome.kind, outcome.fault and f"{name}: {outcome.fault}", data[:size], folder
                )
        with tqdm(desc="decoded", unit=" files") as bar:
            while time.monotonic() < end:
                for name, data, first in damaged_files(seed + int(bar.n), BATCH):
                    outcome = decode_damaged(pool, data, first)
                    findings.add("decoded", outcome.kind, outcome.fault and f"{name}: {outcome.fault}", data, folder)
                bar.update(BATCH)
    finally:
        pool.close()


def serve_until(end: float, seed: int, findings: Findings, folder: Path) -> None:
    """Send damaged files, options and bodies to a server, while another client asks for clips and for its health."""
    with ExitStack() as stack:
        process, server = stack.enter_context(spawn_server())
        stack.callback(process.terminate)
        errors: list[bytes] = []
        assert process.stderr is not None
        lines = iter(process.stderr)
        threading.Thread(target=lambda: errors.extend(filter(_is_error, lines)), daemon=True).start()
        watcher = stack.enter_context(ThreadPoolExecutor(1)).submit(watch, server, end, findings)
        level = _resident_bytes(process.pid)
        with ThreadPoolExecutor(CLIENTS) as clients, tqdm(desc="sent", unit=" requests") as bar:
            while time.monotonic() < end and process.poll() is None:
                sends = list(_requests(server, random.Random(f"{seed} {bar.n}")))
                for way, data, answer in [(way, data, clients.submit(send)) for way, data, send in sends]:
                    status, fault = answer.result()
                    findings.add(way, str(status), fault, data, folder)
                bar.update(len(sends))
        watcher.result()
        growth = _resident_bytes(process.pid) - level if process.poll() is None else 0
        print(f"the server's memory grew by {growth >> 20} MiB", flush=True)
        if process.poll() is not None:
            findings.faults.append(f"the server ended with {process.returncode}")
        if growth > MAX_GROWTH_BYTES:
            findings.faults.append(f"memory grew by {growth >> 20} MiB")
    findings.faults += [f"log: {line.decode()[:300]}" for line in errors]


def _is_error(line: bytes) -> bool:
    """Return whether a line of the server's log is an error, or none that the server has written."""
    try:
        return bool(json.loads(line)["level"] == "error")
    except (ValueError, LookupError):
        return True


def watch(server: Server, end: float, findings: Findings) -> None:
    """Ask for a clip and for the health of the server, by turns, until the end."""
    clip = wav(say(FOX))
    with httpx.Client(timeout=120) as client:
        while time.monotonic() < end:
            started = time.monotonic()
            client.get(f"{server.url}/hc").raise_for_status()
            findings.health_s.append(time.monotonic() - started)
            started = time.monotonic()
            text = client.post(f"{server.url}/asr", content=clip).raise_for_status().json()["text"]
            findings.clips_s.append(time.monotonic() - started)
            if word_error_rate(FOX, text):
                findings.faults.append(f"a clip became {text!r}")


Answer = tuple[int, str | None]


def _requests(server: Server, chance: random.Random) -> Iterator[tuple[str, bytes, Callable[[], Answer]]]:
    """Yield some requests, each with the way it is sent, what is sent, and the function that sends it."""
    for _name, data, first in damaged_files(chance.randrange(2**40), BATCH):
        if first is None:
            yield "whole", data, partial(_post, server, "/asr", data)
        else:
            yield "in pieces", data, partial(_post, server, "/asr", data, pieces=(data[:first], data[first:]))
    for name in Options.json_schema():
        value = chance.choice(VALUES)
        body = json.dumps({"url": "http://127.0.0.1:9/a", name: value}).encode()
        yield "options", body, partial(_post, server, "/asr", body, kind="application/json")
    encoded = mutate(base64.b64encode(chance.choice(list(corpus().values()))), chance)
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + encoded + b"\r\n--b--\r\n"
    for body in (form, mutate(form, chance)):
        yield (
            "form",
            body,
            partial(_post, server, "/v1/audio/transcriptions", body, kind="multipart/form-data; boundary=b"),
        )


def _post(
    server: Server, path: str, data: bytes, kind: str = "application/octet-stream", pieces: tuple[bytes, ...] = ()
) -> Answer:
    """Send a body, whole or in pieces, and return the status, and what is wrong with the answer, or None."""
    content = iter(pieces) if pieces else data
    started = time.monotonic()
    try:
        answer = httpx.post(f"{server.url}{path}", content=content, headers={"Content-Type": kind}, timeout=120)
    except httpx.HTTPError as exc:
        return 0, repr(exc)
    if answer.status_code not in GOOD and not (answer.status_code in (403, 502) and kind == "application/json"):
        return answer.status_code, f"status {answer.status_code}: {answer.text[:200]}"
    slow = time.monotonic() - started > 60 * MAX_CPU_S
    return answer.status_code, "no answer for two minutes" if slow else None


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


if __name__ == "__main__":
    main()
