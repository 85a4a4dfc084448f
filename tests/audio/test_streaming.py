"""Audio while it arrives: text before the last byte, and nothing left of the file afterwards, whatever becomes of it."""

import asyncio
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pytest

from handler.audio import spool
from handler.audio.decode import AudioDecoder
from handler.audio.source import AudioSource
from handler.errors import AsrError
from handler.schema.options import Options
from handler.schema.transcript import Progress
from handler.schema.window import SAMPLE_RATE
from handler.transcription.pipeline import Pipeline
from tests.audio.test_decode import FILES, decoded
from tests.support.asking import STORY
from tests.support.speech import FOX, SENTENCES, container, say, wav
from tests.support.web import Web
from tests.support.word_errors import word_error_rate

FAIL_S = 30.0  # a test that would wait for ever


@pytest.mark.parametrize("format", ["wav", "flac", "mp3", "ogg"])
async def test_there_is_text_long_before_the_last_byte(pipeline: Pipeline, web: Web, format: str) -> None:
    encoded = {
        "wav": lambda: wav(STORY), "flac": lambda: wav(STORY, format="FLAC"), "mp3": lambda: container(STORY, "mp3", "libmp3lame"),
        "ogg": lambda: wav(STORY, format="OGG", subtype="VORBIS"),
    }[format]()  # fmt: skip
    web.put("/story", encoded)
    decoded = asyncio.Event()

    def on_progress(progress: Progress) -> None:
        assert 0 < progress.done_s < len(STORY) / SAMPLE_RATE or web.released.is_set()
        decoded.set()

    task = asyncio.create_task(pipeline.transcribe(AudioSource(url=f"{web.url}/half?/story"), Options(), on_progress))
    await asyncio.wait_for(decoded.wait(), FAIL_S)
    assert not task.done()
    web.released.set()
    assert word_error_rate(" ".join(SENTENCES * 2), (await task).text) <= 0.05


async def test_who_waits_for_bytes_holds_nobody_up(pipeline: Pipeline, web: Web) -> None:
    web.put("/story", wav(STORY))
    waiting = []
    for _ in range(os.cpu_count() or 1):  # more than may work at a time
        decoded = asyncio.Event()
        source = AudioSource(url=f"{web.url}/half?/story")
        waiting.append(asyncio.create_task(pipeline.transcribe(source, Options(), lambda _, decoded=decoded: decoded.set())))  # type: ignore
        await asyncio.wait_for(decoded.wait(), FAIL_S)
    other = await asyncio.wait_for(pipeline.transcribe(AudioSource(file=io.BytesIO(wav(say(FOX)))), Options()), FAIL_S)
    assert word_error_rate(FOX, other.text) == 0
    assert not any(task.done() for task in waiting)
    web.released.set()
    assert len({transcript.text for transcript in await asyncio.gather(*waiting)}) == 1


def temporary_files() -> list[str]:
    """The files without a name that this process holds open."""
    names = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            names.append(str(entry.readlink()))
        except FileNotFoundError:  # the one that lists them
            continue
    return [name for name in names if name.startswith("/") and name.endswith("(deleted)")]


def until_there_is_one_more_than(count: int) -> None:
    while len(temporary_files()) <= count:
        pass


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list open files")
@pytest.mark.parametrize("end", ["success", "cancel", "failure"])
async def test_a_file_that_needs_seeking_leaves_nothing_behind(
    pipeline: Pipeline, web: Web, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY", 1000)  # bytes: what a large file does, a small one does too
    data = container(STORY, "ipod", "aac", 44_100)  # its index stands behind the sound
    before = temporary_files()
    web.put("/story", data[: len(data) // 2] if end == "failure" else data)
    task = asyncio.create_task(pipeline.transcribe(AudioSource(url=f"{web.url}/half?/story"), Options()))
    await asyncio.to_thread(web.asked.wait)
    await asyncio.to_thread(until_there_is_one_more_than, len(before))
    if end == "cancel":
        task.cancel()
    web.released.set()
    found = (await asyncio.gather(task, return_exceptions=True))[0]
    kinds = {"success": str, "cancel": asyncio.CancelledError, "failure": AsrError}
    assert isinstance(getattr(found, "text", found), kinds[end])
    assert temporary_files() == before


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_comes_in_odd_pieces_becomes_the_same_samples(name: str) -> None:
    data = FILES[name]
    expected, whole = decoded(data)
    hungry = threading.Event()

    @contextmanager
    def idle() -> Iterator[None]:
        hungry.set()
        yield
        hungry.clear()

    with spool.Spool(len(data)) as arriving:
        arriving.expect(len(data))

        def write() -> None:
            for at in range(0, len(data), 1449):
                hungry.wait()
                arriving.write(data[at : at + 1449])
            arriving.finish()

        writing = threading.Thread(target=write)
        writing.start()
        decoder = AudioDecoder(cast(BinaryIO, arriving.reader(idle)))
        found = np.concatenate(list(decoder.blocks()))[:, 0]
        hungry.set()
        writing.join()
    assert np.array_equal(found, expected)
    assert decoder.warnings == whole.warnings
