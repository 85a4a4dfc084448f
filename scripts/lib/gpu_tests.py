"""What must work on a device: each check passes, fails with what to do, or does not apply. See scripts/gpu_check."""

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from handler.errors import OutOfMemory
from handler.schema.window import Window
from scripts.lib.gpu_subject import Subject, load
from tests.conftest import ROOT
from tests.support.speech import FOX, say
from tests.support.synchronization import no_synchronization

MAX_WORD_ERRORS = 0.12  # of short synthetic sentences, by the smallest model
MAX_WORSE = 0.02  # word errors that a number format may add to those of float32


class NotHere(Exception):
    """The check does not apply to this machine; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """How a check went. `passed` is None if it does not apply."""

    name: str
    passed: bool | None
    detail: str = ""
    advice: str = ""


def run(name: str, check: Callable[[Subject], str], subject: Subject) -> Outcome:
    """Run a check, which returns a detail, raises AssertionError with what it found, or NotHere."""
    try:
        return Outcome(name, True, check(subject))
    except NotHere as exc:
        return Outcome(name, None, str(exc))
    except Exception as exc:  # of any kind: what a device does is what is examined
        return Outcome(name, False, f"{type(exc).__name__}: {exc}".splitlines()[0], ADVICE[name])


@contextmanager
def _beside(subject: Subject, **changes: Any) -> Iterator[Subject]:
    """Start another worker beside `subject`, with these settings changed. Raises NotHere if memory lacks for it."""
    try:
        other = load(replace(subject.settings, **changes))
    except OutOfMemory as exc:
        raise NotHere("the GPU has no memory for another worker beside the first one") from exc
    try:
        yield other
    finally:
        other.close()


def _words(subject: Subject) -> str:
    rate = subject.word_errors()
    assert rate <= MAX_WORD_ERRORS, f"{rate:.1%} of the words are wrong"
    return f"{rate:.1%} of the words are wrong"


def _numbers(subject: Subject) -> str:
    """Compare the number formats by their words and by numbers that are not finite."""
    formats = ["float16", "bfloat16"] if subject.is_gpu else ["bfloat16"]
    rates: dict[str, float] = {}
    for dtype in ("float32", *formats):
        with _beside(subject, dtype=dtype, batch_size=4) as other:
            rates[dtype] = other.word_errors()
            faulty = other.pipeline.stats().counters.get("not_finite", 0)
        assert not faulty, f"{dtype} computes numbers that are not finite"
    worse = [dtype for dtype in formats if rates[dtype] > rates["float32"] + MAX_WORSE]
    told = ", ".join(f"{dtype} {rate:.1%}" for dtype, rate in rates.items())
    assert not worse, told
    return told


def _graphs(subject: Subject) -> str:
    if not subject.is_gpu:
        raise NotHere("steps are captured on a GPU only")
    engine = subject.engine
    assert engine.has_graphs, "the step could not be captured; the worker runs without graphs"
    with engine._on_device():
        step, graphs = engine._batch._step, engine._batch._graphs
        graphs._advance.verify(step.clear)  # type: ignore[union-attr]
        for audio in (None, step.shared_audio(1, 1, 1)):  # verified when they are captured, which is now
            assert graphs.logits(1, audio) is not None, "logits could not be captured"  # type: ignore[union-attr]
    return "each replay equals the step without a graph"


def _no_waiting(subject: Subject) -> str:
    """Run a step while PyTorch raises an error whenever the host waits for the device."""
    if not subject.is_gpu:
        raise NotHere("a processor waits for nobody")
    engine = subject.engine
    with engine._on_device(), no_synchronization():
        engine._batch._step.advance(1, engine._model.dims.n_text_ctx)
    return "the host never waits within a step"


def _halves(subject: Subject) -> str:
    """Take all memory that is left, and transcribe."""
    if not subject.is_gpu:
        raise NotHere("nobody fills a processor's memory for a test")
    rows = subject.engine.max_batch_size
    with _beside(subject, batch_size=min(rows, 8)) as other:
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(subject.device)
        held = torch.empty(max(0, free - 64 * 1024**2), dtype=torch.uint8, device=subject.device)
        errors = other.word_errors()
        del held
        torch.cuda.empty_cache()
        assert errors <= MAX_WORD_ERRORS, f"{errors:.1%} of the words are wrong without memory"
        assert other.word_errors() <= MAX_WORD_ERRORS
        if other.engine.max_batch_size == min(rows, 8):
            raise NotHere("what was left was enough for all rows")
        return f"{min(rows, 8)} rows became {other.engine.max_batch_size}"


def _second_gpu(subject: Subject) -> str:
    if not subject.is_gpu or torch.cuda.device_count() < 2:
        raise NotHere("there is no second GPU")
    with _beside(subject, device="cuda:1", batch_size=4) as other:
        assert other.engine.has_graphs
        assert other.word_errors() <= MAX_WORD_ERRORS
    return "cuda:1 understands the same"


_LOSE_DEVICE = """
import sys
import torch
from handler.errors import AsrError
from handler.schema.window import Window
from handler.settings import Settings
from handler.startup.bootstrap import build
from tests.support.speech import FOX, say
pipeline = build(Settings(model_id=sys.argv[1], device=sys.argv[2], batch_size=1, log_level="ERROR"))
torch._assert_async(torch.zeros(1, device=sys.argv[2]))
try:
    pipeline.runner.submit("a", Window(0, say(FOX))).result(60)
except AsrError as exc:
    print("code:", exc.code, flush=True)
"""


def _lost_device(subject: Subject) -> str:
    """Make a kernel trap in a process of its own, and see what a request is told."""
    if not subject.is_gpu:
        raise NotHere("a processor is not lost")
    command = [sys.executable, "-c", _LOSE_DEVICE, subject.settings.model_id, str(subject.device)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "code: device_lost" in done.stdout, done.stdout + done.stderr[-300:]
    return "a kernel that traps ends the request as device_lost, to be tried elsewhere"


def _finite(subject: Subject) -> str:
    """Decode a window, and look at what the device computed."""
    result = subject.pipeline.runner.submit("gpu_check", Window(0, say(FOX))).result(60)
    subject.pipeline.runner.cancel("gpu_check")
    assert result.evidence is not None
    assert math.isfinite(result.evidence.avg_logprob), "the mean log-probability is no number"
    return f"mean log-probability {result.evidence.avg_logprob:.3f}"


CHECKS: dict[str, Callable[[Subject], str]] = {
    "numbers are finite": _finite,
    "words are understood": _words,
    "graphs equal their steps": _graphs,
    "a step never waits": _no_waiting,
    "number formats": _numbers,
    "memory that runs out": _halves,
    "a second GPU": _second_gpu,
    "a device that is lost": _lost_device,
}
ADVICE = {
    "numbers are finite": "the GPU may be faulty: try DTYPE=float32, then another host",
    "words are understood": "try DTYPE=float32; if it helps, report this file, else the weights are damaged",
    "graphs equal their steps": "the worker is right without graphs, but slower: report this file with the driver",
    "a step never waits": "speed is lost: report this file",
    "number formats": "set DTYPE to the one that is as good as float32, and report this file",
    "memory that runs out": "set BATCH_SIZE to less than the memory holds, and report this file",
    "a second GPU": "set CUDA_VISIBLE_DEVICES instead of DEVICE=cuda:N, and report this file",
    "a device that is lost": "report this file: requests would end with the wrong error",
}
