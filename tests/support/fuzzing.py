"""Small valid files of many formats, and ways to damage them that a seed decides."""

import io
import random
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import av
import numpy as np
import soundfile

from handler.audio.audio_process import AudioProcess
from handler.audio.media_report import DecodeOptions
from handler.audio.process_pool import AudioProcessPool
from handler.audio.spool import Spool
from handler.errors import MediaError
from handler.schema.window import SAMPLE_RATE
from tests.support.speech import Samples, container

MAX_CPU_S, MAX_MEMORY_BYTES = 2.0, 400 * 1024**2  # that decoding one small file may take, however damaged it is
SECONDS = 0.5  # of each file: short, so that damage is likely to hit a header
# Numbers that parsers get wrong: borders of signed and unsigned integers, and sizes that no file has.
BORDERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 2**40)
_SOUND_FILES = {
    "wav": ("WAV", "PCM_16", 16_000, 1),
    "wav 24 bit": ("WAV", "PCM_24", 44_100, 2),
    "wav float": ("WAV", "FLOAT", 16_000, 1),
    "wav extensible": ("WAVEX", "PCM_16", 48_000, 6),
    "wav µ-law": ("WAV", "ULAW", 8_000, 1),
    "wav A-law": ("WAV", "ALAW", 8_000, 1),
    "wav ima": ("WAV", "IMA_ADPCM", 16_000, 1),
    "wav ms": ("WAV", "MS_ADPCM", 16_000, 1),
    "wav gsm": ("WAV", "GSM610", 8_000, 1),
    "wav g721": ("WAV", "G721_32", 8_000, 1),
    "rf64": ("RF64", "PCM_16", 16_000, 1),
    "w64": ("W64", "PCM_16", 16_000, 1),
    "aiff": ("AIFF", "PCM_16", 16_000, 1),
    "aiff float": ("AIFF", "FLOAT", 16_000, 1),
    "au": ("AU", "PCM_16", 16_000, 1),
    "au µ-law": ("AU", "ULAW", 8_000, 1),
    "caf": ("CAF", "PCM_16", 16_000, 1),
    "caf alac": ("CAF", "ALAC_16", 16_000, 1),
    "flac": ("FLAC", "PCM_16", 16_000, 1),
    "ogg vorbis": ("OGG", "VORBIS", 16_000, 1),
    "ogg vorbis 7.1": ("OGG", "VORBIS", 48_000, 8),
    "mp3": ("MP3", "MPEG_LAYER_III", 16_000, 1),
    "nist": ("NIST", "PCM_16", 16_000, 1),
    "voc": ("VOC", "PCM_16", 16_000, 1),
    "svx": ("SVX", "PCM_16", 16_000, 1),
    "avr": ("AVR", "PCM_16", 16_000, 1),
    "paf": ("PAF", "PCM_16", 16_000, 1),
    "pvf": ("PVF", "PCM_16", 16_000, 1),
}
_CONTAINERS: dict[str, tuple[str, str, int, str]] = {
    "m4a": ("ipod", "aac", 44_100, "stereo"),
    "mp4 fragments": ("ismv", "aac", 44_100, "mono"),
    "mov": ("mov", "pcm_s16le", 16_000, "mono"),
    "alac": ("ipod", "alac", 44_100, "stereo"),
    "adts": ("adts", "aac", 44_100, "mono"),
    "opus": ("ogg", "libopus", 48_000, "mono"),
    "webm": ("webm", "libopus", 48_000, "mono"),
    "mkv": ("matroska", "flac", 16_000, "mono"),
    "mka wavpack": ("matroska", "wavpack", 16_000, "stereo"),
    "wv": ("wv", "wavpack", 16_000, "mono"),
    "tta": ("tta", "tta", 16_000, "mono"),
    "mp2": ("mp2", "mp2", 44_100, "stereo"),
    "ac3": ("ac3", "ac3", 48_000, "5.1"),
    "eac3": ("eac3", "eac3", 48_000, "stereo"),
    "avi": ("avi", "libmp3lame", 44_100, "mono"),
    "flv": ("flv", "aac", 44_100, "mono"),
    "mpegts": ("mpegts", "aac", 44_100, "mono"),
    "mpeg": ("mpeg", "mp2", 44_100, "mono"),
    "amr": ("amr", "libopencore_amrnb", 8_000, "mono"),
    "caf by ffmpeg": ("caf", "pcm_s16be", 16_000, "mono"),
    "nut": ("nut", "pcm_s16le", 16_000, "mono"),
}


@cache
def corpus() -> dict[str, bytes]:
    """A valid file of each format that can be written here, by the format's name."""
    time = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    sound = (0.3 * np.sin(2 * np.pi * 300 * time)).astype(np.float32)
    files = {name: _sound_file(sound, *_SOUND_FILES[name]) for name in _SOUND_FILES}
    for name, (format, codec, rate, layout) in _CONTAINERS.items():
        if codec in av.codecs_available:
            files[name] = container(sound, format, codec, rate, layout)
    files["mp4 video"] = container(sound, "mp4", "aac", 44_100, picture=True)
    files["mp3 cover"] = _with_cover(files["mp3"])
    return files


def _sound_file(sound: Samples, format: str, subtype: str, rate: int, channels: int) -> bytes:
    file = io.BytesIO()
    step = SAMPLE_RATE / rate
    at = np.minimum((np.arange(int(len(sound) / step)) * step).astype(int), len(sound) - 1)
    soundfile.write(file, np.repeat(sound[at, None], channels, 1), rate, subtype=subtype, format=format)
    return file.getvalue()


def _with_cover(mp3: bytes) -> bytes:
    """An MP3 file with a small picture in front of it. Source: id3.org, ID3v2.3, APIC."""
    picture = container(None, "image2pipe", picture=True)[:2000]
    frame = b"\x00image/png\x00\x03\x00" + picture
    body = b"APIC" + struct.pack(">IH", len(frame), 0) + frame
    size = bytes((len(body) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\x00\x00" + size + body + mp3


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Damage a file in one to four ways."""
    for _ in range(chance.randint(1, 4)):
        data = chance.choice(_MUTATIONS)(data, chance)
    return data


def _flip_bits(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 2, 8, 64))):
        if changed:
            changed[_position(data, chance)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _set_number(data: bytes, chance: random.Random) -> bytes:
    size = chance.choice((1, 2, 4, 8))
    order: Literal["little", "big"] = chance.choice(("little", "big"))
    value = int(chance.choice(BORDERS) % 256**size).to_bytes(size, order)
    at = _position(data, chance)
    return (data[:at] + value + data[at + size :])[: max(len(data), at + size)]


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randint(0, len(data))]


def _remove(data: bytes, chance: random.Random) -> bytes:
    at = _position(data, chance)
    return data[:at] + data[at + chance.randint(1, 64) :]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    at = _position(data, chance)
    part = data[at : at + chance.randint(1, 256)]
    return data[:at] + part * chance.randint(2, 16) + data[at:]


def _splice(data: bytes, chance: random.Random) -> bytes:
    other = chance.choice(list(corpus().values()))
    return data[: chance.randint(0, len(data))] + other[chance.randint(0, len(other)) :]


def _swap(data: bytes, chance: random.Random) -> bytes:
    at, to, size = _position(data, chance), _position(data, chance), chance.randint(1, 32)
    return data[:at] + data[to : to + size] + data[at + size :]


def _position(data: bytes, chance: random.Random) -> int:
    """A place in the file: three times of four in its first 200 bytes, where headers are."""
    end = min(len(data), 200) if chance.random() < 0.75 else len(data)
    return chance.randrange(end) if end else 0


_MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip_bits,
    _set_number,
    _set_number,
    _cut,
    _remove,
    _repeat,
    _splice,
    _swap,
)


class WatchedPool(AudioProcessPool):
    """Records how much memory the process of the last file has taken at most, and whether it has died."""

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = 0
        self.death: str | None = None  # the signal that ended the process, or None if it ended as it should

    def end(self, pid: int) -> None:
        status = Path(f"/proc/{pid}/status")
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
        self.peak_bytes = int(found[1]) * 1024 if found else 0
        super().end(pid)

    def signal_of(self, pid: int) -> str:
        self.death = super().signal_of(pid)
        return self.death


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file."""

    kind: str  # "audio", or the code of its error
    fault: str | None  # what should not have happened, or None
    cpu_s: float
    peak_bytes: int


def decode_damaged(pool: WatchedPool, data: bytes, first: int | None = None) -> Outcome:
    """Decode a file in an audio process. With `first`, only so many of its bytes have arrived when decoding begins."""
    pool.death, pool.peak_bytes, kind, fault = None, 0, "audio", None
    with Spool(len(data) + 1) as spool:
        spool.write(data[:first])

        @contextmanager
        def idle() -> Iterator[None]:
            """Let the rest arrive."""
            if spool.size < len(data):
                spool.write(data[spool.size :])
            spool.finish()
            yield

        if first is None:
            spool.finish()
        process = AudioProcess(pool, spool, DecodeOptions(), idle)
        try:
            if not all(np.isfinite(block).all() for block in process.blocks()):
                fault = "samples that are not finite"
        except MediaError as exc:
            kind = exc.code
        except Exception as exc:
            kind, fault = "exception", repr(exc)
        if pool.death is not None:
            fault = f"died of {pool.death}"
    if process.cpu_s > MAX_CPU_S:
        fault = f"{process.cpu_s:.1f} s of processor time"
    if pool.peak_bytes > MAX_MEMORY_BYTES:
        fault = f"{pool.peak_bytes >> 20} MiB of memory"
    return Outcome(kind, fault, process.cpu_s, pool.peak_bytes)


def damaged_files(seed: int, count: int) -> Iterator[tuple[str, bytes, int | None]]:
    """Yield the name of a format, a damaged file, and how many of its bytes arrive first: None for all of them."""
    chance = random.Random(seed)
    names = sorted(corpus())
    for _ in range(count):
        name = chance.choice(names)
        data = mutate(corpus()[name], chance)
        yield name, data, chance.randint(1, max(1, len(data))) if chance.random() < 0.3 else None
