"""Examine a machine's GPU, or its processor, with the product on it. See scripts/gpu_check."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from handler import __version__, logs
from handler.engine.device import choose_device, try_device
from handler.errors import AsrError
from handler.settings import Settings, SettingsError
from scripts.lib import gpu_tests, gpu_times
from scripts.lib.convert import TINY
from scripts.lib.gpu_facts import facts
from scripts.lib.gpu_report import table
from scripts.lib.gpu_subject import Subject, load

LIMIT_S = 570.0  # no further part begins after this time, so that the whole takes at most ten minutes
GOOD, BAD = "works", "does not work"


@dataclass
class Report:
    """What was found, as it is written to the JSON file."""

    model: str
    device: str
    version: str = __version__
    verdict: str = BAD
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    checks: list[gpu_tests.Outcome] = field(default_factory=list)
    times: dict[str, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)  # parts for which no time was left


def main(arguments: list[str] | None = None) -> int:
    """Examine, print, write, and return 0 if everything works."""
    parser = argparse.ArgumentParser(prog="scripts/gpu_check", description=__doc__)
    parser.add_argument("--model", default=TINY, help="MODEL_ID (%(default)s, which needs no model hub)")
    parser.add_argument("--device", default="cuda", help="DEVICE (%(default)s); cpu examines the processor")
    parser.add_argument("--json", type=Path, default=Path("gpu_check.json"), help="file to write (%(default)s)")
    options = parser.parse_args(arguments)
    logs.configure("ERROR")
    began = time.monotonic()
    report = Report(options.model, options.device)
    for name, part in _parts(report):
        if time.monotonic() - began > LIMIT_S:
            report.skipped.append(name)
            continue
        print(f"{time.monotonic() - began:6.1f} s  {name}", file=sys.stderr, flush=True)
        part()
    report.seconds = round(time.monotonic() - began, 1)
    has_failed = any(outcome.passed is False for outcome in report.checks)
    has_failed = has_failed or any("failed" in table for table in report.times.values())
    report.verdict = BAD if has_failed else GOOD
    options.json.write_text(json.dumps(asdict(report), indent=1) + "\n")
    print(table(asdict(report)))
    return 0 if report.verdict == GOOD else 1


def _parts(report: Report) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the name of each part of the examination and a function that adds what it finds to the report.

    What needs a device ends the examination if there is none that works.
    """
    yield "facts", lambda: report.facts.update(facts())
    chosen = _Attempt(lambda: _device(report.device))
    yield "a kernel runs", lambda: report.checks.append(chosen.outcome("a kernel runs"))
    if chosen.value is None:
        return
    loading = _Attempt(lambda: load(Settings(model_id=report.model, device=str(chosen.value))))
    yield "start", lambda: report.checks.append(loading.outcome("the worker starts"))
    if loading.value is None:
        return
    subject: Subject = loading.value
    try:
        report.times["start_s"] = subject.start_s
        report.facts.update(subject.facts())
        for name, check in gpu_tests.CHECKS.items():
            yield name, lambda name=name, check=check: report.checks.append(gpu_tests.run(name, check, subject))  # type: ignore[misc]
        for name, measure in gpu_times.TABLES.items():
            yield name, lambda name=name, measure=measure: report.times.update({name: _measured(measure, subject)})  # type: ignore[misc]
    finally:
        subject.close()


def _measured(measure: Callable[[Subject], Any], subject: Subject) -> Any:
    """Return a table, or what prevented it: the other parts are told all the same."""
    try:
        return measure(subject)
    except Exception as exc:  # of any kind: what a device does is what is examined
        return {"failed": f"{type(exc).__name__}: {exc}".splitlines()[0]}


class _Attempt:
    """Something that is tried once, when its outcome is asked for."""

    def __init__(self, attempt: Callable[[], Any]) -> None:
        self._attempt = attempt
        self.value: Any = None

    def outcome(self, name: str) -> gpu_tests.Outcome:
        """Try it, and return how it went."""
        try:
            self.value = self._attempt()
        except (AsrError, SettingsError, RuntimeError) as exc:
            return gpu_tests.Outcome(name, False, str(exc), "mend what this says; `asr doctor` says more")
        return gpu_tests.Outcome(name, True)


def _device(name: str) -> torch.device:
    device = choose_device(name)
    try_device(device)
    return device


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
