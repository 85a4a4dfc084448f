"""The command line: `asr transcribe FILE|URL…`, `asr submit MANIFEST`, `asr doctor`, `asr fetch`. Knows nothing of decoding;
settings come from the environment as for every door."""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

from tqdm import tqdm

from handler import __version__, doctor, logs
from handler.audio.fetch import public_url
from handler.audio.spool import Spool
from handler.errors import AsrError, DownloadFailed, InvalidRequest
from handler.formats import render
from handler.pipeline import Pipeline, Progress
from handler.schema import AudioSource, Options, Transcript
from handler.settings import Settings, SettingsError
from handler.start import build
from handler.timeline import Timeline

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}]"
PIECE = 1024**2  # bytes of stdin read at a time
FAILED = 1  # exit code: a source could not be transcribed
CANNOT_START = 3  # exit code: a setting or the model


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code says how it went."""
    timeline = Timeline.of_process()
    parser = _parser()
    asked = parser.parse_args(arguments)
    try:
        settings = Settings.from_env({"LOG_LEVEL": "WARNING", **os.environ})
        logs.configure(settings.log_level)
        return int(asked.run(asked, settings, timeline))
    except InvalidRequest as exc:
        parser.error(exc.message)
    except (AsrError, SettingsError) as exc:
        print(f"asr: cannot start: {exc}", file=sys.stderr)
        return CANNOT_START


def transcribe(asked: argparse.Namespace, settings: Settings, timeline: Timeline) -> int:
    """Print the transcripts of files and addresses."""
    options = Options.parse({name: getattr(asked, name) for name in Options.json_schema()})
    pipeline = build(settings, timeline)
    try:
        return asyncio.run(_transcribe_all(pipeline, asked.sources, options))
    except KeyboardInterrupt:
        return 130
    finally:
        pipeline.close()


def send(asked: argparse.Namespace, settings: Settings, timeline: Timeline) -> int:
    """Send a manifest of addresses to a RunPod queue endpoint; answers go to a file of JSON lines. Run again, it goes on."""
    from handler.submit import Submission, read_manifest, submit

    output = asked.output or asked.manifest.with_name(asked.manifest.name + ".results.jsonl")
    try:
        items = read_manifest(asked.manifest, {name: getattr(asked, name) for name in Options.json_schema()})
        return submit(items, Submission(asked.endpoint, settings.runpod_api_key, output, asked.in_flight, asked.retries))
    except (OSError, RuntimeError) as exc:  # RuntimeError: the SDK has no key, or a wrong one
        print(f"asr: {exc}", file=sys.stderr)
        return FAILED


def fetch(asked: argparse.Namespace, settings: Settings, timeline: Timeline) -> int:
    """Place in CACHE_DIR what has to be downloaded or converted of the model, and try it."""
    try:
        settings.cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise SettingsError("CACHE_DIR", str(settings.cache_dir), f"a folder that can be written: {exc.strerror}") from None
    build(settings, timeline).close()
    return 0


def examine(asked: argparse.Namespace, settings: Settings, timeline: Timeline) -> int:
    """Print what this machine and these settings make of a start."""
    start = list(doctor.started(settings, timeline, build))  # first, or it would find everything imported
    failed = False
    for finding in chain(doctor.examine(settings), start):
        print(f"{finding.name:<24}{finding.value}", flush=True)
        if finding.trouble:
            print(f"{'':<24}! {finding.trouble}", flush=True)
        failed = failed or (finding.name == "start" and bool(finding.trouble))
    return CANNOT_START if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asr", description="Speech to text.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for run, name in ((examine, "doctor"), (fetch, "fetch")):
        commands.add_parser(name, help=run.__doc__, description=run.__doc__).set_defaults(run=run)
    speech = commands.add_parser("transcribe", help=transcribe.__doc__, description=transcribe.__doc__)
    speech.set_defaults(run=transcribe)
    speech.add_argument("sources", nargs="+", metavar="FILE|URL", help="a file, an http, https or s3 address, or - for stdin")
    many = commands.add_parser("submit", help=send.__doc__, description=send.__doc__)
    many.set_defaults(run=send)
    many.add_argument("manifest", type=Path, metavar="MANIFEST", help="a file: each line an address, or a JSON object with url and options")
    many.add_argument("--endpoint", required=True, metavar="ID", help="the endpoint; RUNPOD_API_KEY holds the key")
    many.add_argument("--output", type=Path, metavar="FILE", help="where answers go; default: MANIFEST.results.jsonl")
    many.add_argument("--in-flight", type=_counted, default=64, metavar="N", help="jobs sent and not answered yet, at most; default: 64")
    many.add_argument(
        "--retries", type=_counted, default=3, metavar="N", help="times that a job which may do better is sent again; default: 3"
    )
    for command in (speech, many):
        for name, schema in Options.json_schema().items():
            flags = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))  # one where the name is one word
            command.add_argument(*flags, dest=name, choices=schema.get("enum"), help=schema["description"].replace("%", "%%"))
    return parser


def _counted(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 1000:
        raise argparse.ArgumentTypeError("expected a whole number from 1 to 1000")
    return int(text)


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


if __name__ == "__main__":
    sys.exit(main())
