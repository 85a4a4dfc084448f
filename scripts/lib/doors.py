"""Clips a second by the queue beside HTTP: the same files, as many in work at once, by turns. See scripts/doors."""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from scripts.lib.bench_server import Reply, Server, clean_environment, served
from scripts.lib.convert import TINY, checkpoint
from scripts.lib.listening import Spoken, spoken_in
from scripts.lib.machine import machine
from scripts.lib.peers import ROOT
from tests.support.sls_queue import Queue

TIMES = 4  # that each clip is sent


def by_http(folder: Path, threads: int, files: Sequence[Spoken], at_once: int, log: Path) -> float:
    """Seconds that a server takes for the files."""
    with (
        Server(folder, threads, "cpu", log) as server,
        served(files[0].path.parent) as url,
        ThreadPoolExecutor(at_once) as clients,
    ):
        server.clients(1, files[:1])
        began = time.perf_counter()
        replies: list[Reply] = list(clients.map(lambda file: server.address(f"{url}/{file.path.name}"), files))
        seconds = time.perf_counter() - began
    assert all(reply.text is not None for reply in replies)
    return seconds


def by_queue(folder: Path, threads: int, files: Sequence[Spoken], at_once: int, log: Path) -> float:
    """Seconds that a worker takes for the files, of which so many lie in the queue or are in work at a time."""
    with (
        Queue() as queue,
        served(files[0].path.parent) as url,
        log.open("ab") as file,
        ThreadPoolExecutor(at_once) as clients,
    ):

        def ask(number: int) -> dict[str, Any]:
            queue.put(f"{number}", {"url": f"{url}/{files[number].path.name}", "language": "en"})
            return queue.answer(f"{number}", 600)

        given = clean_environment(folder, threads, "cpu") | queue.environment() | {"RUNPOD_LOG_LEVEL": "ERROR"}
        process = subprocess.Popen(
            [sys.executable, "-m", "handler"], cwd=ROOT, env=given, stdout=subprocess.DEVNULL, stderr=file
        )
        try:
            queue.put("first", {"url": f"{url}/{files[0].path.name}"})
            queue.answer("first", 600)
            began = time.perf_counter()
            answers = list(clients.map(ask, range(len(files))))
            seconds = time.perf_counter() - began
        finally:
            process.terminate()
            process.wait()
    assert all("error" not in answer for answer in answers)
    return seconds


def main() -> None:
    """Print a table of medians and ratios."""
    parser = argparse.ArgumentParser(prog="scripts/doors", description=__doc__)
    parser.add_argument("folder", type=Path, help="clips and their manifest.jsonl")
    parser.add_argument("--model", default=TINY)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--at-once", type=int, default=16, help="clients, or jobs in work")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    clips = spoken_in(given.folder)
    folder, files = checkpoint(given.model), clips * TIMES
    log = ROOT / ".bench" / "doors.log"
    log.parent.mkdir(exist_ok=True)
    doors = {"HTTP": by_http, "queue": by_queue}
    found: dict[str, list[float]] = {name: [] for name in doors}
    for _ in tqdm(range(given.rounds), unit="round"):
        for name, door in doors.items():
            found[name].append(door(folder, given.threads, files, given.at_once, log))
    audio_s = sum(file.seconds for file in files)
    print(
        f"{given.model} on {machine('cpu')}, {given.threads} threads, "
        f"{len(files)} clips of {audio_s:.0f} s, {given.at_once} at once"
    )
    print("| door | audio a second | of HTTP's |\n|---|---|---|")
    for name, seconds in found.items():
        print(f"| {name} | {audio_s / median(seconds):.1f}× | {median(found['HTTP']) / median(seconds):.2f} |")


if __name__ == "__main__":
    main()
