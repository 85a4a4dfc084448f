"""`asr transcribe`: print the transcripts of files and URLs. Knows nothing of decoding."""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from handler.audio.source import AudioSource
from handler.audio.spool import Spool
from handler.audio.urls import public_url
from handler.errors import AsrError, DownloadFailed
from handler.exit_codes import FAILED
from handler.output.formats import render
from handler.schema.options import Options
from handler.schema.transcript import Transcript
from handler.settings import Settings
from handler.startup.bootstrap import build
from handler.startup.process_tuning import fast_imports, freeze_garbage_collector
from handler.timeline import Timeline
from handler.transcription.pipeline import Pipeline

BAR_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}]"
MAX_BAR_CHARS = 40  # of a source's name, which precedes the bar
STDIN_CHUNK_BYTES = 1024**2


def start_pipeline(settings: Settings, timeline: Timeline) -> Pipeline:
    """Build the pipeline, and tune the process for running a single command."""
    with fast_imports():
        pipeline = build(settings, timeline)
        freeze_garbage_collector()
    return pipeline


def transcribe(arguments: argparse.Namespace, settings: Settings, timeline: Timeline) -> int:
    """Transcribe files and URLs, and print the transcripts."""
    options = Options.parse({name: getattr(arguments, name) for name in Options.json_schema()})
    pipeline = start_pipeline(settings, timeline)
    try:
        return asyncio.run(_transcribe_all(pipeline, arguments.sources, options))
    finally:
        pipeline.close()


async def _transcribe_all(pipeline: Pipeline, sources: Sequence[str], options: Options) -> int:
    """Transcribe the sources one after another, print their transcripts, and return the exit code.

    Nothing is gained by transcribing several sources at once, because each one fills the batch by itself.
    """
    has_failed = False
    for source in sources:
        try:
            transcript = await _transcribe_one(pipeline, source, options)
        except (AsrError, OSError) as exc:
            name = public_url(source) if "://" in source else source
            print(f"asr: {name}: {exc}", file=sys.stderr)
            has_failed = True
        else:
            print(_format_output(transcript, source, options, is_only_source=len(sources) == 1), end="", flush=True)
    return FAILED if has_failed else 0


async def _transcribe_one(pipeline: Pipeline, source: str, options: Options) -> Transcript:
    bar = tqdm(desc=source[-MAX_BAR_CHARS:], total=1, bar_format=BAR_FORMAT)
    with bar, _open_source(source, pipeline.new_spool) as audio:
        async with contextlib.aclosing(pipeline.stream(audio, options)) as stream:
            async for item in stream:
                if isinstance(item, Transcript):
                    return item
                bar.total = item.total_s or item.done_s
                bar.update(item.done_s - bar.n)
    raise AssertionError("a stream ends with a transcript, or with an error")


@contextlib.contextmanager
def _open_source(source: str, new_spool: Callable[[], Spool]) -> Iterator[AudioSource]:
    """Yield the audio of a file, of a URL, or of stdin if `source` is `-`.

    Raises OSError if a file cannot be opened, and AsrError on exit if stdin could not be read.
    """
    if "://" in source:
        yield AudioSource(url=source)
    elif source == "-":
        with new_spool() as spool:
            threading.Thread(target=_copy_to_spool, args=(sys.stdin.fileno(), spool), daemon=True).start()
            try:
                yield AudioSource(growing=spool)
            finally:
                spool.check()  # an error while copying is the cause of the decoder's error
    else:
        with open(source, "rb") as file:
            yield AudioSource(file=file)


def _copy_to_spool(descriptor: int, spool: Spool) -> None:
    """Copy all data from a file descriptor to a spool, a file that can be read while it is still being written.

    The copying is unbuffered, because a thread that waits inside a buffered reader would disturb the interpreter's
    exit.
    """
    error: AsrError | None = None
    try:
        while data := os.read(descriptor, STDIN_CHUNK_BYTES):
            spool.write(data)
    except AsrError as exc:
        error = exc
    except OSError as exc:
        error = DownloadFailed(f"stdin could not be kept: {exc.strerror}")
    spool.finish(error)


def _format_output(transcript: Transcript, source: str, options: Options, is_only_source: bool) -> str:
    """Return the text to print for a transcript.

    If there are several sources, a transcript in JSON becomes one line that also names its source.
    """
    rendered: Any = render(transcript, options.format)
    if isinstance(rendered, str):
        return rendered
    if is_only_source:
        return json.dumps(rendered, ensure_ascii=False, indent=2) + "\n"
    name = source.encode("utf-8", "backslashreplace").decode()  # that of a file may be no UTF-8
    return json.dumps({"source": name, **rendered}, ensure_ascii=False) + "\n"
