"""Audio to measure with: folders with a manifest, and one long file joined of many short ones."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from handler.schema.window import SAMPLE_RATE

JOINED_S = 1191.0  # 19 min 51 s: as long as the file that asr-api's README measures with
GAPS_S = (0.3, 1.5)
COMPRESSED_RATE = 48_000


@dataclass(frozen=True, slots=True)
class Spoken:
    """A file and what is said in it."""

    path: Path
    text: str
    seconds: float


def spoken_in(folder: Path) -> list[Spoken]:
    """The files of a folder's manifest.jsonl, whose lines are {"audio": "a.flac", "text": "what is said"}."""
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines() if line.strip()]
    if not rows:
        raise SystemExit(f"{folder}/manifest.jsonl names no file")
    return [Spoken(folder / row["audio"], row["text"], soundfile.info(folder / row["audio"]).duration) for row in rows]


def joined(clips: Sequence[Spoken], seconds: float, target: Path) -> Spoken:
    """Write clips in random order with pauses to a file of about so many seconds; the same clips make the same file."""
    texts: list[str] = []
    length = 0
    with soundfile.SoundFile(target, "w", SAMPLE_RATE, 1, "PCM_16") as file:
        for clip, samples, pause in shuffled(clips):
            if length + len(samples) + pause > seconds * SAMPLE_RATE:
                break
            file.write(np.concatenate((samples, np.zeros(pause, np.float32))))
            length += len(samples) + pause
            texts.append(clip.text)
    return Spoken(target, " ".join(texts), length / SAMPLE_RATE)


def shuffled(clips: Sequence[Spoken]) -> Iterator[tuple[Spoken, NDArray[np.float32], int]]:
    """Clips over and over, each time in another order, with their samples and the pause behind them."""
    chance = random.Random(0)
    read = {clip.path: _samples(clip.path) for clip in clips}
    while True:
        for clip in chance.sample(list(clips), len(clips)):
            yield clip, read[clip.path], round(chance.uniform(*GAPS_S) * SAMPLE_RATE)


def compressed(file: Spoken, codec: str, target: Path) -> Spoken:
    """Write a file of 16 kHz anew by one of FFmpeg's encoders, in the container that the name of `target` asks for."""
    samples = _samples(file.path)
    with av.open(str(target), "w") as out:
        stream = out.add_stream(codec, rate=COMPRESSED_RATE, layout="mono")
        samples = np.asarray(soxr.resample(samples, SAMPLE_RATE, COMPRESSED_RATE), np.float32)
        for start in range(0, len(samples), COMPRESSED_RATE):
            block = np.ascontiguousarray(samples[None, start : start + COMPRESSED_RATE])
            frame = av.AudioFrame.from_ndarray(block, "fltp", "mono")
            frame.sample_rate, frame.pts = COMPRESSED_RATE, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return Spoken(target, file.text, file.seconds)


def _samples(path: Path) -> NDArray[np.float32]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return np.asarray(soxr.resample(samples.mean(1), rate, SAMPLE_RATE), np.float32)
