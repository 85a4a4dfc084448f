"""How long people wait for the text of what they say, with some sessions at once. See scripts/live_bench."""

import argparse
import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from statistics import quantiles

import jiwer
import numpy as np
import requests
import soundfile
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from handler.schema.window import SAMPLE_RATE
from handler.transcription.word_edits import letters_and_digits
from scripts.lib import live_client, live_peer
from scripts.lib.bench_server import Server
from scripts.lib.convert import TINY, checkpoint, converted
from scripts.lib.listening import joined, spoken_in
from scripts.lib.live_client import Heard
from scripts.lib.machine import machine
from scripts.lib.peers import ROOT

JOINED_S = 600.0
COLUMNS = (
    *("sessions", "word p50", "p95", "turn p50", "p95"),
    *("words unlike the file's", "contradicted", "speed of the file", "errors"),
)
Speak = Callable[[str, NDArray[np.float32]], Awaitable[Heard]]  # the address of a web socket, and samples


@dataclass(frozen=True, slots=True)
class Reference:
    """A word that was said, and when it ended in the file."""

    key: str
    end: float


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds that were waited for words and for whole turns, and the words that are wrong beside the file's text."""

    words: list[float]
    turns: list[float]
    word_error_rate: float
    errors: int


def reference_of(url: str, path: Path) -> list[Reference]:
    """Return the words of a file with their times, as the server transcribes the file."""
    with path.open("rb") as file:
        fields = {"model": "whisper-1", "response_format": "verbose_json", "timestamp_granularities[]": "word"}
        answer = requests.post(f"{url}/v1/audio/transcriptions", data=fields, files={"file": file}, timeout=3600)
    return [Reference(letters_and_digits(word["word"]), word["end"]) for word in answer.json()["words"]]


def waits_of(heard: Heard, said: Sequence[Reference], offset_s: float) -> Waits:
    """Compare what was told with what was said in the seconds from `offset_s` on."""
    told = [(letters_and_digits(word), at_s) for word, at_s in heard.words]
    told = [(key, at_s) for key, at_s in told if key]
    ends = _matched([key for key, _ in told], said)
    words = [at_s - (ends[index] - offset_s) for index, (_, at_s) in enumerate(told) if index in ends]
    keys = [key for text, _ in heard.turns for word in text.split() if (key := letters_and_digits(word))]
    ends, turns, count = _matched(keys, said), [], 0
    for text, at_s in heard.turns:
        count += sum(bool(letters_and_digits(word)) for word in text.split())
        if count - 1 in ends:
            turns.append(at_s - (ends[count - 1] - offset_s))
    rate = jiwer.wer(" ".join(word.key for word in said), " ".join(keys) or "-")
    return Waits(words, turns, rate, len(heard.errors))


def _matched(keys: Sequence[str], said: Sequence[Reference]) -> dict[int, float]:
    """Return the end of the word that was said for each word told that is one."""
    matcher = SequenceMatcher(None, keys, [word.key for word in said], autojunk=False)
    blocks = matcher.get_matching_blocks()
    return {block.a + index: said[block.b + index].end for block in blocks for index in range(block.size)}


@contextmanager
def file_beside(url: str, path: Path, seconds: list[float]) -> Iterator[None]:
    """Have the file transcribed again and again for the time of a block, and note how long each time took."""
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            seconds.append(transcribe(url, path))

    thread = threading.Thread(target=work)
    thread.start()
    yield
    is_over.set()
    thread.join()


def transcribe(url: str, path: Path) -> float:
    """Return how long the server takes for a file."""
    began = time.perf_counter()
    with path.open("rb") as file:
        requests.post(f"{url}/asr", data=file, headers={"Content-Type": "audio/flac"}, timeout=3600).raise_for_status()
    return time.perf_counter() - began


async def sessions(
    url: str, speak: Speak, samples: NDArray[np.float32], said: Sequence[Reference], count: int, seconds: float
) -> list[Waits]:
    """Let some people speak at once, each another part of the file, and return how long each waited."""
    step = (len(samples) / SAMPLE_RATE - seconds) / max(1, count)
    offsets = [number * step for number in range(count)]
    parts = [samples[round(at * SAMPLE_RATE) : round((at + seconds) * SAMPLE_RATE)] for at in offsets]
    socket = url.replace("http", "ws", 1)
    heard = await asyncio.gather(*(speak(socket, part) for part in parts))
    return [
        waits_of(each, [word for word in said if at < word.end < at + seconds - 0.5], at)
        for each, at in zip(heard, offsets, strict=True)
    ]


def row(name: str, waits: Sequence[Waits], share: str = "–", contradicted: str = "–") -> str:
    """Return a line of the table."""
    words = [wait for each in waits for wait in each.words]
    turns = [wait for each in waits for wait in each.turns]
    rate = sum(each.word_error_rate for each in waits) / len(waits)
    cells = [
        name,
        *_quantiles(words),
        *_quantiles(turns),
        f"{100 * rate:.1f} %",
        contradicted,
        share,
        f"{sum(e.errors for e in waits)}",
    ]
    return f"| {' | '.join(cells)} |"


def _quantiles(waits: Sequence[float]) -> tuple[str, str]:
    if len(waits) < 2:
        return "–", "–"
    parts = quantiles(waits, n=20, method="inclusive")
    return f"{parts[9]:.2f}", f"{parts[18]:.2f}"


def told_by(url: str) -> NDArray[np.int64]:
    """Return how many words turned out otherwise than they were told in live sessions until now, and of how many."""
    answer = requests.get(f"{url}/metrics", timeout=60)
    answer.raise_for_status()
    families = text_string_to_metric_families(answer.text)
    values = {sample.name: sample.value for family in families for sample in family.samples}
    return np.array([values[f"asr_live_words_{which}"] for which in ("contradicted_total", "total")], np.int64)


def measure(
    url: str, speak: Speak, path: Path, counts: Sequence[int], seconds: float, has_file: bool
) -> list[Reference]:
    """Print the lines of the table of this worker's server. Return the words of the file, with their times."""
    samples, _ = soundfile.read(path, dtype="float32")
    said = reference_of(url, path)
    alone = min(transcribe(url, path) for _ in range(2))
    for count in counts:
        for beside in (False, True) if has_file else (False,):
            took: list[float] = []
            told_before = told_by(url)
            with file_beside(url, path, took) if beside else nullcontext():
                waits = asyncio.run(sessions(url, speak, samples, said, count, seconds))
            share = f"{alone / (sum(took) / len(took)):.0%}" if took else "–"
            contradicted, words = told_by(url) - told_before
            name = f"{count}{', a file beside' if beside else ''}"
            print(row(name, waits, share, f"{contradicted} of {words}"), flush=True)
    return said


def measure_peer(policy: str, given: argparse.Namespace, path: Path, clip: Path, said: Sequence[Reference]) -> None:
    """Print the lines of the table of WhisperLiveKit with one of its policies."""
    samples, _ = soundfile.read(path, dtype="float32")
    weights = converted(given.model, live_peer.POLICIES[policy][0])
    for count in given.sessions:  # each with a server that has heard nobody yet
        with live_peer.WhisperLiveKit(policy, weights, clip, given.threads) as server:
            waits = asyncio.run(sessions(server.url, live_peer.speak, samples, said, count, given.seconds))
        print(row(f"WhisperLiveKit, {policy}, {count}", waits), flush=True)


def main() -> None:
    """Print a table of waits."""
    parser = argparse.ArgumentParser(prog="scripts/live_bench", description=__doc__)
    parser.add_argument("folder", type=Path, help="clips and their manifest.jsonl")
    parser.add_argument("--model", default=TINY)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--seconds", type=float, default=60.0, help="of speech in each session")
    parser.add_argument("--no-file", action="store_true", help="leave out the runs with a file beside the sessions")
    parser.add_argument("--peer", action="store_true", help="measure WhisperLiveKit as well")
    parser.add_argument("--diarize-model", help="have speakers told apart as well, by this model")
    parser.add_argument("--url", help="of a server that runs already; it is then measured instead")
    given = parser.parse_args()
    if given.url and (given.peer or given.diarize_model):
        parser.error("--url must come without --peer and --diarize-model")
    work = ROOT / ".bench"
    work.mkdir(exist_ok=True)
    clips = spoken_in(given.folder)
    file = joined(clips, JOINED_S, work / "live.flac")
    print(f"{given.model} on {machine('cpu')}, {given.threads} threads; seconds, {given.seconds:g} s a session")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    speak = partial(live_client.speak, diarize=given.diarize_model is not None)
    how = (speak, file.path, given.sessions, given.seconds, not given.no_file)
    if given.url:
        measure(given.url, *how)
        return
    variables = {"DIARIZE_MODEL": given.diarize_model} if given.diarize_model else {}
    with Server(checkpoint(given.model), given.threads, "cpu", work / "live.log", variables) as server:
        said = measure(server.url, *how)
    for policy in live_peer.POLICIES if given.peer else ():
        if given.model == TINY and policy == live_peer.MULTILINGUAL_ALONE:
            continue
        measure_peer(policy, given, file.path, clips[0].path, said)


if __name__ == "__main__":
    main()
