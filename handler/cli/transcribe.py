"""`asr transcribe`: print the transcripts of files and addresses. Knows nothing of decoding."""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, cast

from tqdm import tqdm

from handler.audio.fetch import public_url
from handler.audio.source import AudioSource
from handler.audio.spool import Spool
from handler.errors import AsrError, DownloadFailed
from handler.exit_codes import FAILED, INTERRUPTED
from handler.output.formats import render
from handler.schema.options import Options
from handler.schema.transcript import Progress, Transcript
from handler.settings import Settings
from handler.startup.bootstrap import build
from handler.timeline import Timeline
from handler.transcription.pipeline import Pipeline

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}]"


PIECE = 1024**2  # bytes of stdin read at a time


def transcribe(asked: argparse.Namespace, settings: Settings, timeline: Timeline) -> int:
    """Print the transcripts of files and addresses."""
    options = Options.parse({name: getattr(asked, name) for name in Options.json_schema()})
    pipeline = build(settings, timeline)
    try:
        return asyncio.run(_transcribe_all(pipeline, asked.sources, options))
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        pipeline.close()


async def _transcribe_all(pipeline: Pipeline, sources: Sequence[str], options: Options) -> int:
    """One after the other, in order: each fills the batch by itself."""
    failed = False
    for source in sources:
        try:
            transcript = await _transcribe(pipeline, source, options)
        except (AsrError, OSError) as exc:
            print(f"asr: {public_url(source) if '://' in source else source}: {exc}", file=sys.stderr)
            failed = True
        else:
            print(_shown(transcript, source, options, alone=len(sources) == 1), end="", flush=True)
    return FAILED if failed else 0


async def _transcribe(pipeline: Pipeline, source: str, options: Options) -> Transcript:
    bar = tqdm(desc=source[-40:], total=1, bar_format=BAR)

    def show(progress: Progress) -> None:
        bar.total = progress.total_s or progress.done_s
        bar.update(progress.done_s - bar.n)

    with bar, _opened(source, pipeline.settings.max_bytes) as opened:
        return await pipeline.transcribe(opened, options, show)


@contextlib.contextmanager
def _opened(source: str, cap: int) -> Iterator[AudioSource]:
    if "://" in source:
        yield AudioSource(url=source)
    elif source == "-":
        with Spool(cap) as spool:
            threading.Thread(target=_pump, args=(sys.stdin.fileno(), spool), daemon=True).start()
            try:
                yield AudioSource(file=cast(BinaryIO, spool.reader()))
            finally:
                spool.check()  # what the pump met is the cause of what the decoder makes of it
    else:
        with open(source, "rb") as file:
            yield AudioSource(file=file)


def _pump(descriptor: int, spool: Spool) -> None:
    """Unbuffered: a thread that waits inside a buffered reader would break the interpreter's end."""
    error: AsrError | None = None
    try:
        while data := os.read(descriptor, PIECE):
            spool.write(data)
    except AsrError as exc:
        error = exc
    except OSError as exc:
        error = DownloadFailed(f"stdin could not be kept: {exc.strerror}")
    spool.finish(error)


def _shown(transcript: Transcript, source: str, options: Options, alone: bool) -> str:
    """A transcript as it is printed: objects of several sources are lines of JSON that name their source."""
    rendered: Any = render(transcript, options.format)
    if isinstance(rendered, str):
        return rendered
    if alone:
        return json.dumps(rendered, ensure_ascii=False, indent=2) + "\n"
    return json.dumps({"source": source, **rendered}, ensure_ascii=False) + "\n"
