"""`asr live`: write what is said while it is said. Knows nothing of decoding."""

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from handler.audio.ffmpeg_formats import is_common_container
from handler.cli.transcribe import start_pipeline
from handler.errors import InvalidRequest
from handler.exit_codes import FAILED
from handler.live.events import Completed, Failed, Hypothesis, LiveEvent
from handler.live.latency import LiveLatency
from handler.live.live_session import LiveConfig, LiveSession
from handler.live.sample_stream import PCM16, SAMPLE_BYTES, SampleStream
from handler.live.turn_detection import TurnDetection
from handler.output.formats import UNKNOWN_SPEAKER, turns
from handler.schema.options import Options
from handler.schema.transcript import Word
from handler.schema.window import SAMPLE_RATE
from handler.settings import Settings
from handler.timeline import Timeline
from handler.transcription.pipeline import Pipeline
from handler.transcription.word_edits import all_words
from handler.validators import check, integer, number

# Of a request, that live speech has as well.
OPTIONS = ("language", "languages", "task", "prompt", "hotwords", "diarize", "speakers")
READ_S = 0.1  # of audio at a time
WAITING_BLOCKS = 100  # that are read ahead of stdin
_ENDING = (signal.SIGINT, signal.SIGTERM)
_CLEAR_LINE, _DIM, _PLAIN = "\r\x1b[K", "\x1b[2m", "\x1b[0m"
Blocks = asyncio.Queue[bytes | None]  # None: no more come


def live(arguments: argparse.Namespace, settings: Settings, timeline: Timeline) -> int:
    """Write what is said into the microphone, or what comes as samples on stdin, while it is said."""
    options = Options.parse({name: getattr(arguments, name) for name in OPTIONS})
    silence_ms = check("silence_ms", arguments.silence_ms, number(50, 10_000))
    rate = check("rate", arguments.rate, integer(4_000, 192_000))
    config = LiveConfig(options, TurnDetection(silence_duration_s=silence_ms / 1000))
    stream = SampleStream(arguments.encoding, rate)
    with ExitStack() as resources:
        open_microphone = None
        if arguments.source is None:
            stream = SampleStream(PCM16, SAMPLE_RATE)
            open_microphone = _microphone()
        pipeline = start_pipeline(settings, timeline)
        resources.callback(pipeline.close)
        pipeline.check_live(options)
        return asyncio.run(_write_all(pipeline, config, stream, open_microphone, arguments.json))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command that are no options of a request."""
    source_help = "- for samples on stdin; left out: the microphone"
    parser.add_argument("source", nargs="?", choices=["-"], metavar="-", help=source_help)
    encodings = list(SAMPLE_BYTES)
    parser.add_argument("--encoding", choices=encodings, default=PCM16, help=f"of stdin; default: {PCM16}")
    parser.add_argument("--rate", default=SAMPLE_RATE, metavar="HZ", help=f"of stdin; default: {SAMPLE_RATE}")
    silence_help = "silence that ends a line, milliseconds; default: 500"
    parser.add_argument("--silence-ms", default=500, metavar="MS", help=silence_help)
    parser.add_argument("--json", action="store_true", help="write events as JSON lines")


async def _write_all(
    pipeline: Pipeline,
    config: LiveConfig,
    stream: SampleStream,
    open_microphone: "Callable[[Callable[[bytes], None]], Any] | None",
    as_json: bool,
) -> int:
    """Write what is said until the samples end or the user interrupts, and return the exit code."""
    loop = asyncio.get_running_loop()
    blocks: Blocks = asyncio.Queue(WAITING_BLOCKS if open_microphone is None else 0)
    writer = _JsonWriter() if as_json else _TextWriter(sys.stdout.isatty())
    end = asyncio.Event()

    def write(event: LiveEvent) -> None:
        try:
            writer.write(event)
        except BrokenPipeError:  # nobody reads any more
            writer.is_broken = True
            end.set()

    session = LiveSession(pipeline.resources, config, LiveLatency(), write)
    for ending in _ENDING:
        loop.add_signal_handler(ending, end.set)
    with ExitStack() as sources:
        if open_microphone is None:
            block_bytes = max(1, round(READ_S * stream.rate)) * SAMPLE_BYTES[stream.encoding]
            reader = threading.Thread(target=_read_stdin, args=(loop, blocks, block_bytes), daemon=True)
            reader.start()
        else:
            sources.enter_context(open_microphone(lambda data: _put_later(loop, blocks, data)))
            print("asr: listening; Ctrl-C ends", file=sys.stderr)
        ended = asyncio.create_task(end.wait())
        data = await _next_block(blocks, ended)
        if data is not None and open_microphone is None:
            _check_samples(data)
        while data is not None:
            await session.push(stream.push(data))
            data = await _next_block(blocks, ended)
    for ending in _ENDING:  # a second one does not wait for the text
        loop.remove_signal_handler(ending)
    if not writer.is_broken:
        await session.push(stream.flush())
        await session.finish()
    session.close()
    ended.cancel()
    if writer.is_broken:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it at its end
    return FAILED if writer.has_failed or writer.is_broken else 0


def _check_samples(data: bytes) -> None:
    """Raise InvalidRequest if the first bytes on stdin are those of a file with a mark that samples do not have."""
    if is_common_container(data):
        raise InvalidRequest("expected samples without a header on stdin; got a media file, which asr transcribe takes")


async def _next_block(blocks: Blocks, ended: "asyncio.Task[bool]") -> bytes | None:
    """Wait for the next block, and return it. Return None at the end."""
    if ended.done():
        return None
    getting = asyncio.create_task(blocks.get())
    await asyncio.wait({getting, ended}, return_when=asyncio.FIRST_COMPLETED)
    if getting.done():
        return getting.result()
    getting.cancel()
    return None


def _read_stdin(loop: asyncio.AbstractEventLoop, blocks: Blocks, block_bytes: int) -> None:
    """Put what comes on stdin into a queue, no faster than it is taken."""
    while True:
        data = os.read(sys.stdin.fileno(), block_bytes) or None
        putting = blocks.put(data)
        try:
            asyncio.run_coroutine_threadsafe(putting, loop).result()
        except RuntimeError:  # the loop is closed: the user has interrupted
            putting.close()
            return
        if data is None:
            return


def _put_later(loop: asyncio.AbstractEventLoop, blocks: Blocks, data: bytes) -> None:
    loop.call_soon_threadsafe(blocks.put_nowait, data)


def _microphone() -> Callable[[Callable[[bytes], None]], Any]:
    """Return a function that opens the microphone and passes its blocks to another. Raises InvalidRequest."""
    try:
        import sounddevice
    except (ImportError, OSError) as exc:  # OSError: the package is there, and PortAudio is not
        expected = "the extra `live` (pip install '.[live]') and PortAudio, or - for samples on stdin"
        raise InvalidRequest(f"the microphone needs {expected}: {exc}") from None
    try:
        sounddevice.check_input_settings(channels=1, dtype="int16", samplerate=SAMPLE_RATE)
    except Exception as exc:  # sounddevice raises errors of several kinds
        raise InvalidRequest(f"expected a microphone, or - for samples on stdin: {exc}") from None

    def open_stream(take: Callable[[bytes], None]) -> Any:
        return sounddevice.RawInputStream(
            SAMPLE_RATE,
            round(READ_S * SAMPLE_RATE),
            channels=1,
            dtype="int16",
            callback=lambda data, *_: take(bytes(data)),
        )

    return open_stream


class _TextWriter:
    """Writes a line for each turn. On a terminal, the line grows while somebody speaks."""

    def __init__(self, is_terminal: bool) -> None:
        self._is_terminal = is_terminal
        self._told = ""
        self.has_failed = self.is_broken = False

    def write(self, event: LiveEvent) -> None:
        """Write what has happened."""
        if isinstance(event, Hypothesis) and self._is_terminal:
            self._told += event.delta
            guess = "".join(word.text for word in event.guess)
            line = f"{self._told}{guess}".strip()[1 - shutil.get_terminal_size().columns :]  # what fits, of its end
            place = max(0, len(line) - len(guess))
            print(f"{_CLEAR_LINE}{line[:place]}{_DIM}{line[place:]}{_PLAIN}", end="", flush=True)
        elif isinstance(event, Completed):
            clear = _CLEAR_LINE if self._is_terminal else ""
            text = event.text
            if event.has_speakers:
                parts = turns(event.segments)
                text = "\n".join(f"{speaker or UNKNOWN_SPEAKER}: {part.strip()}" for speaker, part in parts)
            print(f"{clear}{text}" if text else clear, end="\n" if text else "", flush=True)
            self._told = ""
        elif isinstance(event, Failed):
            print(f"asr: {event.error}", file=sys.stderr)
            self.has_failed, self._told = True, ""


def _word(word: Word) -> dict[str, Any]:
    speaker = {} if word.speaker is None else {"speaker": word.speaker}
    return {"text": word.text.strip(), "start": word.start, "end": word.end, **speaker}


class _JsonWriter:
    """Writes deltas, complete texts and errors as JSON lines."""

    has_failed = is_broken = False

    def write(self, event: LiveEvent) -> None:
        """Write what has happened."""
        if isinstance(event, Hypothesis) and event.delta:
            self._print({"type": "delta", "turn": event.turn, "text": event.delta})
        elif isinstance(event, Completed):
            words = all_words(event.segments)
            self._print(
                {
                    "type": "text",
                    "turn": event.turn,
                    "start": round(event.start_s, 3),
                    "end": round(event.end_s, 3),
                    "text": event.text,
                    "language": event.language,
                    "words": [_word(word) for word in words],
                }
            )
        elif isinstance(event, Failed):
            self.has_failed = True
            self._print({"type": "error", "turn": event.turn, "error": event.error.as_dict()})

    def _print(self, content: dict[str, Any]) -> None:
        print(json.dumps(content, ensure_ascii=False), flush=True)
