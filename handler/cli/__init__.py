"""The command line: `asr transcribe FILE|URL…`, `asr submit MANIFEST`, `asr doctor`, `asr fetch`. Knows nothing of decoding;
settings come from the environment as for every door."""

import argparse
import os
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from handler import __version__, logs
from handler.cli import doctor
from handler.cli.transcribe import transcribe
from handler.errors import AsrError, InvalidRequest
from handler.exit_codes import CANNOT_START, FAILED
from handler.schema.options import Options
from handler.settings import Settings, SettingsError
from handler.startup.bootstrap import build
from handler.timeline import Timeline


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


def send(asked: argparse.Namespace, settings: Settings, timeline: Timeline) -> int:
    """Send a manifest of addresses to a RunPod queue endpoint; answers go to a file of JSON lines. Run again, it goes on."""
    from handler.cli.submit import Submission, read_manifest, submit

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
