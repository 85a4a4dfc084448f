"""How uploads fare: when a slow one is answered after its last byte, when a client that left is noticed, what stays."""

import argparse
import random
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from scripts.lib.bench_server import REPLY_S, Server
from scripts.lib.convert import TINY, checkpoint
from scripts.lib.listening import Spoken, joined, spoken_in
from scripts.lib.machine import machine
from scripts.lib.peers import ROOT

PIECES = 500  # of a slow upload
WORK_S = 1.5  # that a request is in work before its client leaves
FREE = ("asr_requests_in_work", "asr_windows_waiting", "asr_rows_busy")  # all 0 once nothing is in work


def behind_the_last_byte(server: Server, data: bytes, seconds: float, as_form: bool) -> float:
    """Seconds from the last byte of an upload that takes so long until its answer."""
    sent = [0.0]

    def pieces() -> Iterator[bytes]:
        began = time.perf_counter()
        for number in range(PIECES):
            time.sleep(max(0.0, began + seconds * number / PIECES - time.perf_counter()))
            yield data[len(data) * number // PIECES : len(data) * (number + 1) // PIECES]
        sent[0] = time.perf_counter()

    body: Iterator[bytes] = pieces()
    path, kind = "/asr", "audio/flac"
    if as_form:
        before = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        before += b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        path, kind = "/v1/audio/transcriptions", "multipart/form-data; boundary=b"
        body = chain([before], body, [b"\r\n--b--\r\n"])
    requests.post(server.url + path, data=body, headers={"Content-Type": kind}, timeout=REPLY_S).raise_for_status()
    return time.perf_counter() - sent[0]


def break_off(server: Server, data: bytes, share: float) -> socket.socket:
    """Send a share of a body; gives back the connection."""
    address = urlsplit(server.url)
    connection = socket.create_connection((address.hostname, address.port))
    head = f"POST /asr HTTP/1.1\r\nHost: a\r\nContent-Type: audio/flac\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data[: int(share * len(data))])
    return connection


def until_free(server: Server, data: bytes) -> float:
    """Seconds from when a client leaves a file in work until its rows are free."""
    connection = break_off(server, data, 1)
    time.sleep(WORK_S)
    assert _in_work(server)
    connection.close()
    began = time.perf_counter()
    while _in_work(server):
        pass
    return time.perf_counter() - began


def _in_work(server: Server) -> bool:
    lines = requests.get(f"{server.url}/metrics", timeout=60).text.splitlines()
    return any(float(line.split()[1]) for line in lines if line.startswith(FREE))


def round_of(
    server: Server, clips: Sequence[Spoken], long: bytes, count: int, clients: int, broken: float
) -> tuple[int, int, float]:
    """Uploads by so many clients at once: answers, those that break off, slowest /hc in seconds.

    A share of them break off in the middle of the long file, which is more than a spool keeps in memory.
    """
    files = [clips[number % len(clips)].path for number in range(count)]
    leaving = [random.random() < broken for _ in files]

    def one(path: Path, leaves: bool) -> bool:
        if leaves:
            break_off(server, long, 0.5).close()
            return False
        return server.upload(path).text is not None

    with server.watched() as slowest, ThreadPoolExecutor(clients) as pool:
        answered = list(pool.map(one, files, leaving))
    return sum(answered), sum(leaving), slowest()


def main() -> None:
    """Print tables."""
    parser = argparse.ArgumentParser(prog="scripts/uploads", description=__doc__)
    parser.add_argument("folder", type=Path, help="clips and their manifest.jsonl")
    parser.add_argument("--model", default=TINY)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--uploads", type=int, default=200, help="of a round")
    parser.add_argument("--broken", type=float, default=0.2, help="share of them that break off half-way")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--long", type=float, default=1200, help="seconds of the long file")
    given = parser.parse_args()
    work = ROOT / ".bench"
    work.mkdir(exist_ok=True)
    clips = spoken_in(given.folder)
    long = joined(clips, given.long, work / f"long-{given.long:.0f}.flac").path.read_bytes()
    with Server(checkpoint(given.model), given.threads, "cpu", work / "uploads.log") as server:
        print(f"{given.model} on {machine('cpu')}, {given.threads} threads", flush=True)
        server.clients(given.clients, list(clips) * 2)  # has seen all kinds
        at_once = median(behind_the_last_byte(server, long, 0, False) for _ in range(given.repeat))
        print("\n| upload takes, of what the file takes | body | form |\n|---|---|---|", flush=True)
        for times in (0.5, 1, 2):
            slow = [
                median(behind_the_last_byte(server, long, times * at_once, form) for _ in range(given.repeat))
                for form in (False, True)
            ]
            print(f"| {times:g} | {slow[0] / at_once:.3f} | {slow[1] / at_once:.3f} |", flush=True)
        left = [until_free(server, long) for _ in range(given.repeat)]
        print(f"\nA client that leaves the long file: rows free within {1000 * max(left):.0f} ms")
        print("\n| answered | broken off | slowest /hc | memory |\n|---|---|---|---|", flush=True)
        level = server.held_bytes()
        for _ in tqdm(range(given.rounds), unit="round"):
            answered, broken, slowest = round_of(server, clips, long, given.uploads, given.clients, given.broken)
            while _in_work(server):
                pass
            print(
                f"| {answered} | {broken} | {1000 * slowest:.0f} ms | {server.held_bytes() / level - 1:+.1%} |",
                flush=True,
            )
        print(f"Temporary files left: {server.temporary_files()}")


if __name__ == "__main__":
    main()
