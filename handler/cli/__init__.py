"""The command line: `asr transcribe FILE|URL…`, `asr live`, `asr submit MANIFEST`, `asr doctor`, `asr fetch`.

Settings come from environment variables, as for every entry point. Knows nothing of decoding.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from handler import __version__, logs
from handler.cli import doctor
from handler.cli import live as live_command
from handler.cli.live import live
from handler.cli.transcribe import start_pipeline, transcribe
from handler.errors import AsrError, InvalidRequest
from handler.exit_codes import CANNOT_START, FAILED, INTERRUPTED
from handler.schema.options import Options
from handler.settings import Settings, SettingsError
from handler.timeline import Timeline

MAX_COUNT = 1000  # upper limit of --in-flight and of --retries


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. `argv` defaults to the arguments of this process."""
    timeline = Timeline.of_process()
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        settings = Settings.from_env({"LOG_LEVEL": "WARNING", **os.environ})
        logs.configure(settings.log_level)
        return int(arguments.run(arguments, settings, timeline))
    except InvalidRequest as exc:
        parser.error(exc.message)
    except (AsrError, SettingsError) as exc:
        print(f"asr: cannot start: {exc}", file=sys.stderr)
        return CANNOT_START
    except KeyboardInterrupt:
        return INTERRUPTED


# The docstrings of the commands are also their help texts.


def send(arguments: argparse.Namespace, settings: Settings, timeline: Timeline) -> int:
    """Send the URLs in a manifest file to a RunPod queue endpoint, and write answers as JSON lines. Rerun to resume."""
    from handler.cli.submit import Submission, read_manifest, submit

    output = arguments.output or arguments.manifest.with_name(arguments.manifest.name + ".results.jsonl")
    options = {name: getattr(arguments, name) for name in Options.json_schema()}
    try:
        items = read_manifest(arguments.manifest, options)
        submission = Submission(
            arguments.endpoint, settings.runpod_api_key, output, arguments.in_flight, arguments.retries
        )
        return submit(items, submission)
    except (OSError, RuntimeError) as exc:  # RuntimeError: the SDK has no key, or a wrong one
        print(f"asr: {exc}", file=sys.stderr)
        return FAILED


def fetch(arguments: argparse.Namespace, settings: Settings, timeline: Timeline) -> int:
    """Download the model to CACHE_DIR and convert it, unless this was done before. Then load and test the model."""
    try:
        settings.cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        expected = f"a folder that can be written: {exc.strerror}"
        raise SettingsError("CACHE_DIR", str(settings.cache_dir), expected) from None
    start_pipeline(settings, timeline).close()
    return 0


def examine(arguments: argparse.Namespace, settings: Settings, timeline: Timeline) -> int:
    """Print what matters for a start on this machine with these settings, try to start, and print any problem."""
    start_findings = list(
        doctor.try_start(settings, timeline, start_pipeline)
    )  # done first, so that its times include the imports
    has_failed = False
    for finding in chain(doctor.examine(settings), start_findings):
        print(f"{finding.name:<24}{finding.value}", flush=True)
        if finding.problem:
            print(f"{'':<24}! {finding.problem}", flush=True)
        has_failed = has_failed or (finding.name == "start" and bool(finding.problem))
    return CANNOT_START if has_failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asr", description="Speech to text.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for run, name in ((examine, "doctor"), (fetch, "fetch")):
        commands.add_parser(name, help=run.__doc__, description=run.__doc__).set_defaults(run=run)
    transcribe_parser = commands.add_parser("transcribe", help=transcribe.__doc__, description=transcribe.__doc__)
    transcribe_parser.set_defaults(run=transcribe)
    sources_help = "a file, an http, https or s3 address, or - for stdin"
    transcribe_parser.add_argument("sources", nargs="+", metavar="FILE|URL", help=sources_help)
    live_parser = commands.add_parser("live", help=live.__doc__, description=live.__doc__)
    live_parser.set_defaults(run=live)
    live_command.add_arguments(live_parser)
    submit_parser = commands.add_parser("submit", help=send.__doc__, description=send.__doc__)
    submit_parser.set_defaults(run=send)
    _add_submit_arguments(submit_parser)
    for command_parser in (transcribe_parser, submit_parser):
        _add_options(command_parser, Options.json_schema())
    _add_options(live_parser, live_command.OPTIONS)
    return parser


def _add_submit_arguments(parser: argparse.ArgumentParser) -> None:
    manifest_help = "a file: each line an address, or a JSON object with url and options"
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help=manifest_help)
    endpoint_help = "the endpoint; RUNPOD_API_KEY holds the key"
    parser.add_argument("--endpoint", required=True, metavar="ID", help=endpoint_help)
    output_help = "where answers go; default: MANIFEST.results.jsonl"
    parser.add_argument("--output", type=Path, metavar="FILE", help=output_help)
    in_flight_help = "jobs sent and not answered yet, at most; default: 64"
    parser.add_argument("--in-flight", type=_parse_count, default=64, metavar="N", help=in_flight_help)
    retries_help = "times that a job which may do better is sent again; default: 3"
    parser.add_argument("--retries", type=_parse_count, default=3, metavar="N", help=retries_help)


def _add_options(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Add options of a request as flags, each once spelled with hyphens and once with underscores."""
    schemas = Options.json_schema()
    for name in names:
        schema = schemas[name]
        flags = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))  # equal for a name of one word
        help_text = schema["description"].replace("%", "%%")
        parser.add_argument(*flags, dest=name, choices=schema.get("enum"), help=help_text)


def _parse_count(text: str) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_COUNT))
    if not is_number or not 0 < int(text) <= MAX_COUNT:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {MAX_COUNT}")
    return int(text)
