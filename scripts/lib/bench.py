"""Speed, latency and memory beside the peers': same weights, same audio, same threads, one run. See scripts/bench."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tqdm import tqdm

from handler.whisper.checkpoint.reader import open_checkpoint
from handler.whisper.tokenizer import Specials
from scripts.lib.bench_report import OURS, write_report
from scripts.lib.bench_server import Reply, Server, served
from scripts.lib.convert import TINY, checkpoint, converted
from scripts.lib.hard_audio import joined_hard
from scripts.lib.listening import JOINED_S, Spoken, compressed, joined, spoken_in
from scripts.lib.machine import machine, slug
from scripts.lib.peers import ROOT, SYSTEMS, Peer
from tests.support.word_errors import count_word_errors, total_errors

KEPT = ROOT / ".bench"
PEERS = (
    "OpenVINO GenAI, int8",
    "faster-whisper, batched, int8",
    "faster-whisper, 5 beams, int8",
    "whisper.cpp, float16",
    "openai-whisper",
    "transformers pipeline, as asr-api",
)
SLOW = 20.0  # × real time: what is slower is measured once
CLIENTS = (1, 4, 16, 64)
SENT = 4  # times that clients send each clip, all together
JOB_WINDOWS, JOB_CLIENTS = (2, 5), (1, 16, 64)
JOBS_A_CLIENT, MIN_JOBS = 3, 8  # so that jobs begin while others are in all stages of theirs
WINDOW_S = 25.0  # seconds of speech that are cut into one window
HARD_S = 600.0  # seconds of hard speech
BESIDE_CLIENTS = 4  # that send clips while a long file is transcribed
LENGTHS_S = (600.0, 3600.0, 36_000.0)
BESIDE_S = 10.0  # length of the clip that is sent beside the longest file
IDLE_REPLIES, BESIDE_REPLIES = 10, 40
LONGEST_WAIT_S = 1500.0  # a file that takes longer is left out
UNDER_WAY_S = 15.0  # after this the longest file fills the batch

Figures = dict[str, Any]


@dataclass
class Record:
    """Figures by the name of their step, kept line by line, so that a run that was broken off goes on."""

    path: Path
    figures: dict[str, Figures] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.is_file():
            self.figures = {row["step"]: row for row in map(json.loads, self.path.read_text().splitlines())}

    def add(self, step: str, figures: Figures) -> None:
        """Keep what a step has measured."""
        self.figures[step] = figures
        with self.path.open("a") as file:
            print(json.dumps({"step": step, **figures}), file=file)


class Bench:
    """All steps for one model on one device."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._given = given
        self._folder = checkpoint(given.model)
        multilingual = Specials.of_vocab(open_checkpoint(self._folder).dims.n_vocab).multilingual
        self._language = "en" if multilingual else None
        self.clips = spoken_in(given.folder)
        self._audio = KEPT / "audio"
        self._audio.mkdir(parents=True, exist_ok=True)
        self._joined = self._made("joined", JOINED_S)
        self._files = {
            "hard": joined_hard(self.clips, HARD_S, self._audio / "hard.flac"),
            "mp3": compressed(self._joined, "libmp3lame", self._audio / "joined.mp3"),
            "opus": compressed(self._joined, "libopus", self._audio / "joined.opus"),
        }
        self._peers = [name for name in PEERS if given.device in SYSTEMS[name].devices and name in given.peers]

    def _made(self, name: str, seconds: float) -> Spoken:
        return joined(self.clips, seconds, self._audio / f"{name}.flac")

    def steps(self) -> Iterator[tuple[str, Callable[[], Figures]]]:
        """The name of each step and what does it."""
        for number in range(self._given.rounds):
            yield f"round {number}: {OURS}", self._round
            for name in self._peers:
                yield f"round {number}: {name}", lambda name=name: self._peer_round(name)  # type: ignore[misc]
            for count in CLIENTS:
                yield f"round {number}: {count} clients", lambda count=count: self._clients(count)  # type: ignore[misc]
            for name in (OURS, *self._peers):
                yield f"busy {number}: {name}", lambda name=name: self._busy_round(name)  # type: ignore[misc]
            for kind in self._files:
                for name in (OURS, *self._peers):
                    step = f"file {number}: {kind}: {name}"
                    yield step, lambda kind=kind, name=name: self._file(kind, name)  # type: ignore[misc]
            yield f"beside {number}: clips", self._beside
            for windows in JOB_WINDOWS:
                for count in JOB_CLIENTS:
                    step = f"jobs {number}: {windows} windows, {count} clients"
                    yield step, lambda windows=windows, count=count: self._jobs(windows, count)  # type: ignore[misc]
        for seconds in self._given.lengths:
            yield f"length {seconds:.0f}", lambda seconds=seconds: self._length(seconds)  # type: ignore[misc]

    def _server(self) -> Server:
        return Server(self._folder, self._given.threads, self._given.device, KEPT / "server.log")

    def _peer(self, name: str) -> Peer:
        folder = converted(self._given.model, SYSTEMS[name].layout)
        return Peer(name, folder, self._given.threads, self._given.device, self._language)

    def _round(self) -> Figures:
        """The clips one by one and the joined file, by HTTP."""
        with self._server() as server, served(self._audio) as files:
            server.upload(self.clips[0].path)
            clips = [server.upload(clip.path) for clip in self.clips]
            long = server.address(f"{files}/{self._joined.path.name}")
            peak = server.peak_bytes()
        return {"clips": _measured(self.clips, clips), "joined": _measured([self._joined], [long]), "peak_bytes": peak}

    def _peer_round(self, name: str) -> Figures:
        """The same by a peer, which reads the clips from disk and downloads the joined file."""
        with self._peer(name) as peer, served(self._audio) as files:
            peer.transcribe(str(self.clips[0].path))
            clips = [peer.transcribe(str(clip.path)) for clip in self.clips]
            long = peer.transcribe(f"{files}/{self._joined.path.name}")
        replies = [Reply(answer.text, answer.seconds) for answer in (*clips, long)]
        measured = {"clips": _measured(self.clips, replies[:-1]), "joined": _measured([self._joined], replies[-1:])}
        return {**measured, "peak_bytes": long.peak_bytes, "version": peer.version}

    def _busy_round(self, name: str) -> Figures:
        """A round of this worker or of a peer beside a process that keeps one processor busy."""
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
            try:
                return self._round() if name == OURS else self._peer_round(name)
            finally:
                busy.kill()

    def _jobs(self, windows: int, count: int) -> Figures:
        """Files of a few windows by many clients, each of which sends another one when it has an answer."""
        file = self._made(f"{windows} windows", windows * WINDOW_S)
        with self._server() as server:
            server.upload(self.clips[0].path)
            files = [file] * max(MIN_JOBS, JOBS_A_CLIENT * count)
            replies, seconds = server.clients(count, files)
        return _measured(files, replies, seconds)

    def _file(self, kind: str, name: str) -> Figures:
        """One file of a kind by this worker or by a peer."""
        file = self._files[kind]
        if name == OURS:
            with self._server() as server, served(self._audio) as files:
                server.upload(self.clips[0].path)
                reply = server.address(f"{files}/{file.path.name}")
                return {**_measured([file], [reply]), "device_s": server.device_seconds()}
        with self._peer(name) as peer, served(self._audio) as files:
            peer.transcribe(str(self.clips[0].path))
            answer = peer.transcribe(f"{files}/{file.path.name}")
        return _measured([file], [Reply(answer.text, answer.seconds)])

    def _beside(self) -> Figures:
        """Clips by a few clients while the joined file is transcribed, and what each takes alone."""
        files = self.clips * SENT
        with self._server() as server, served(self._audio) as web, ThreadPoolExecutor(1) as pool:
            address = f"{web}/{self._joined.path.name}"
            server.upload(self.clips[0].path)
            alone, _ = server.clients(BESIDE_CLIENTS, files)
            long_alone = server.address(address)
            running = pool.submit(server.address, address)
            beside: list[Reply] = []
            while not running.done():
                beside += server.clients(BESIDE_CLIENTS, self.clips)[0]
            long = running.result()
        waits, alone_waits = ([reply.seconds for reply in replies] for replies in (beside, alone))
        return {
            "p50": median(waits) / median(alone_waits),
            "p95": float(np.quantile(waits, 0.95)) / median(waits),
            "long": long_alone.seconds / long.seconds,
            "lost": sum(reply.text is None for reply in (*beside, long)),
        }

    def _clients(self, count: int) -> Figures:
        """Clips by many clients at once, while /hc is asked for."""
        files = self.clips * SENT
        with self._server() as server:
            server.clients(count, self.clips[:count])
            with server.watched() as slowest:
                replies, seconds = server.clients(count, files)
            peak = server.peak_bytes()
        waits = [reply.seconds for reply in replies]
        return {
            **_measured(files, replies, seconds),
            "p50_s": median(waits),
            "p95_s": float(np.quantile(waits, 0.95)),
            "hc_s": slowest(),
            "peak_bytes": peak,
        }

    def _length(self, seconds: float) -> Figures:
        """One file of a given length, downloaded; a clip beside the longest."""
        file = self._made(f"{seconds:.0f}s", seconds)
        clip = min(self.clips, key=lambda clip: abs(clip.seconds - BESIDE_S))
        beside: Figures = {}
        with (
            self._server() as server,
            served(self._audio) as files,
            ThreadPoolExecutor(1) as pool,
            server.watched() as slowest,
        ):
            server.upload(
                self._joined.path
            )  # a fresh process takes more memory with any work, until it has seen all kinds
            idle = [server.upload(clip.path).seconds for _ in range(IDLE_REPLIES)]
            running = pool.submit(server.address, f"{files}/{file.path.name}")
            if seconds == max(self._given.lengths):
                time.sleep(UNDER_WAY_S)
                busy: list[float] = []
                while not running.done() and len(busy) < BESIDE_REPLIES:
                    busy.append(server.upload(clip.path).seconds)
                if busy:
                    beside = {
                        "idle_s": median(idle),
                        "beside_s": median(busy),
                        "slowest_s": max(busy),
                        "replies": len(busy),
                    }
            reply = running.result()
            peak = server.peak_bytes()
        file.path.unlink()
        return {**_measured([file], [reply]), "seconds": reply.seconds, "hc_s": slowest(), "peak_bytes": peak, **beside}


def _measured(files: list[Spoken], replies: list[Reply], seconds: float | None = None) -> Figures:
    """Return speed and word errors; lost files count as no audio.

    `seconds`: what all took together, if they did not run one after the other.
    """
    score = count_word_errors([file.text for file in files], [reply.text or "" for reply in replies])
    audio_s = sum(file.seconds for file, reply in zip(files, replies, strict=True) if reply.text is not None)
    return {
        "audio_s": audio_s,
        "speed": audio_s / (seconds or sum(reply.seconds for reply in replies)),
        "errors": total_errors(score),
        "wer": score.wer,
        "lost": sum(reply.text is None for reply in replies),
    }


def main() -> None:
    """Do the steps that are left and write the report."""
    parser = _parser()
    given = parser.parse_args()
    if unknown := set(given.peers) - {*PEERS, ""}:
        parser.error(f"--peers: unknown {', '.join(sorted(unknown))}; expected some of {'; '.join(PEERS)}")
    KEPT.mkdir(exist_ok=True)
    bench = Bench(given)
    path = KEPT / f"{slug(f'{given.model} {given.device}')}.jsonl"
    if not given.resume:
        path.unlink(missing_ok=True)
    record = Record(path)
    about = {
        "model": given.model,
        "device": given.device,
        "threads": given.threads,
        "machine": machine(given.device),
        "folder": given.folder.name,
        "clips": len(bench.clips),
    }
    if record.figures.setdefault("about", {"step": "about", **about}) != {"step": "about", **about}:
        parser.error(f"--resume: {path} was measured with {record.figures['about']}")
    if not path.is_file():
        record.add("about", about)
    with tqdm(list(bench.steps()), unit="step") as bar:
        for step, work in bar:
            bar.set_description(step)
            if step not in record.figures and not _is_slow(step, record):
                try:
                    record.add(step, work())
                except RuntimeError as exc:  # a process that does not start: the others still do
                    bar.write(f"{step}: {exc}")
    write_report(record.figures, given.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="clips with a manifest.jsonl")
    parser.add_argument("--model", default=TINY, help="a checkpoint in CTranslate2's layout as in MODEL_ID, or `base`")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="turns that everybody has; who is slower than twenty times real time has one",
    )
    parser.add_argument(
        "--peers", default=list(PEERS), type=lambda text: text.split(";"), help="names, with ; between them"
    )
    parser.add_argument(
        "--lengths", default=LENGTHS_S, nargs="*", type=float, metavar="S", help="files of these seconds, one each"
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep what a run of these arguments has measured before it was broken off"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs/measurements")
    return parser


def _is_slow(step: str, record: Record) -> bool:
    """Whether a step is one of the later rounds of somebody slow, or a file that somebody slow would take hours for."""
    if step.startswith("length"):
        speed = record.figures.get(f"round 0: {OURS}", {}).get("joined", {}).get("speed", 0.0)
        return float(step.split()[1]) > LONGEST_WAIT_S * float(speed)
    first = record.figures.get(f"round 0: {step.partition(': ')[2]}", {})
    return "joined" in first and bool(first["joined"]["speed"] < SLOW)


if __name__ == "__main__":
    main()
