"""Audio while it arrives: text before the last byte, and no trace of the file afterwards, however the request ends."""

import asyncio
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from handler.audio import spool
from handler.audio.decode import AudioDecoder
from handler.audio.source import AudioSource
from handler.errors import AsrError
from handler.schema.options import Options
from handler.schema.transcript import Progress, Transcript
from handler.schema.window import SAMPLE_RATE
from handler.transcription.pipeline import Pipeline
from tests.audio.test_decode import FILES, decode
from tests.support.asking import STORY
from tests.support.speech import FOX, SENTENCES, container, say, wav
from tests.support.web import Web
from tests.support.word_errors import word_error_rate

FAIL_S = 30.0  # a test that waits longer fails


@pytest.mark.parametrize("format", ["wav", "flac", "mp3", "ogg"])
async def test_there_is_text_long_before_the_last_byte(pipeline: Pipeline, web: Web, format: str) -> None:
    encoders = {
        "wav": lambda: wav(STORY),
        "flac": lambda: wav(STORY, format="FLAC"),
        "mp3": lambda: container(STORY, "mp3", "libmp3lame"),
        "ogg": lambda: wav(STORY, format="OGG", subtype="VORBIS"),
    }
    web.put("/story", encoders[format]())
    progressed = asyncio.Event()

    def on_progress(progress: Progress) -> None:
        assert 0 < progress.done_s < len(STORY) / SAMPLE_RATE or web.released.is_set()
        progressed.set()

    task = asyncio.create_task(pipeline.transcribe(AudioSource(url=f"{web.url}/partly?/story"), Options(), on_progress))
    await asyncio.wait_for(progressed.wait(), FAIL_S)
    assert not task.done()
    web.released.set()
    assert word_error_rate(" ".join(SENTENCES * 2), (await task).text) <= 0.05


def start_request(pipeline: Pipeline, source: AudioSource) -> tuple[asyncio.Task[Transcript], asyncio.Event]:
    """Start a request, and return its task and an event that is set with its first progress."""
    progressed = asyncio.Event()
    request = pipeline.transcribe(source, Options(), lambda _: progressed.set())
    return asyncio.create_task(request), progressed


async def test_a_request_that_waits_for_bytes_delays_no_other(pipeline: Pipeline, web: Web) -> None:
    web.put("/story", wav(STORY))
    waiting_tasks = []
    for _ in range(os.cpu_count() or 1):  # more than may decode at a time
        task, progressed = start_request(pipeline, AudioSource(url=f"{web.url}/partly?/story"))
        waiting_tasks.append(task)
        await asyncio.wait_for(progressed.wait(), FAIL_S)
    upload = AudioSource(file=io.BytesIO(wav(say(FOX))))
    transcript = await asyncio.wait_for(pipeline.transcribe(upload, Options()), FAIL_S)
    assert word_error_rate(FOX, transcript.text) == 0
    assert not any(task.done() for task in waiting_tasks)
    web.released.set()
    assert len({transcript.text for transcript in await asyncio.gather(*waiting_tasks)}) == 1


def temporary_files() -> list[str]:
    """Return the open files of this process that have no name, but for those of audio processes, which come and go."""
    names = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            names.append(str(entry.readlink()))
        except FileNotFoundError:  # the one that lists them
            continue
    names = [name for name in names if name.startswith("/") and name.endswith("(deleted)")]
    return [name for name in names if "memfd:block" not in name]


def wait_for_more_files_than(count: int) -> None:
    while len(temporary_files()) <= count:
        pass


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list open files")
@pytest.mark.parametrize("end", ["success", "cancel", "failure"])
async def test_a_file_that_needs_seeking_leaves_no_trace(
    pipeline: Pipeline, web: Web, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY", 1000)  # bytes, so that a small file is stored on disk
    data = container(STORY, "ipod", "aac", 44_100)  # its index follows the sound
    files_before = temporary_files()
    if end == "failure":
        data = data[: len(data) // 2]
    web.put("/story", data)
    task = asyncio.create_task(pipeline.transcribe(AudioSource(url=f"{web.url}/partly?/story"), Options()))
    await asyncio.to_thread(web.request_received.wait)
    await asyncio.to_thread(wait_for_more_files_than, len(files_before))
    if end == "cancel":
        task.cancel()
    web.released.set()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    types = {"success": Transcript, "cancel": asyncio.CancelledError, "failure": AsrError}
    assert isinstance(result, types[end])
    assert temporary_files() == files_before


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_arrives_in_odd_pieces_becomes_the_same_samples(name: str) -> None:
    data = FILES[name]
    expected, expected_decoder = decode(data)
    bytes_needed = threading.Event()

    @contextmanager
    def idle() -> Iterator[None]:
        bytes_needed.set()
        yield
        bytes_needed.clear()

    with spool.Spool(len(data)) as growing:
        growing.expect(len(data))

        def write() -> None:
            for at in range(0, len(data), 1449):
                bytes_needed.wait()
                growing.write(data[at : at + 1449])
            growing.finish()

        writer = threading.Thread(target=write)
        writer.start()
        decoder = AudioDecoder(growing.reader(idle))
        samples = np.concatenate(list(decoder.blocks()))[:, 0]
        bytes_needed.set()
        writer.join()
    assert np.array_equal(samples, expected)
    assert decoder.report.warnings == expected_decoder.report.warnings
