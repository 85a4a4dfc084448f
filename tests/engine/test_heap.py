"""Freed memory goes back to the system, although small things that stay lie between."""

import ctypes
import resource
from pathlib import Path

import numpy as np
import pytest

from handler.engine.heap import HeapTrimmer
from handler.engine.runner import Runner
from handler.schema.window import Window
from tests.support.fake_engine import FakeEngine

MIB = 2**20
BLOCK, COUNT = 96 * 1024, 1_000

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library cannot do it")


def held_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def blocks_with_small_ones_between() -> tuple[list[np.ndarray], list[np.ndarray]]:
    large, small = [], []
    for _ in range(COUNT):
        large.append(np.ones(BLOCK, np.uint8))
        small.append(np.ones(4_000, np.uint8))
    return large, small


def test_what_is_free_between_things_that_stay_is_returned_when_it_is_due() -> None:
    trimmer = HeapTrimmer(every_s=0.0)
    large, small = blocks_with_small_ones_between()
    large.clear()
    before = held_bytes()
    trimmer.trim_if_due()
    assert before - held_bytes() > COUNT * BLOCK / 2
    assert all(part[0] for part in small)


def test_nothing_is_done_so_soon_after_the_last_time() -> None:
    trimmer = HeapTrimmer(every_s=3600.0)
    trimmer.trim_if_due()
    large, small = blocks_with_small_ones_between()
    large.clear()
    before = held_bytes()
    trimmer.trim_if_due()
    assert before - held_bytes() < COUNT * BLOCK / 8
    assert all(part[0] for part in small)


@pytest.mark.parametrize(("device", "is_done"), [("cpu", True), ("NVIDIA L4", False)])
def test_memory_is_returned_while_a_processor_decodes(
    monkeypatch: pytest.MonkeyPatch, device: str, is_done: bool
) -> None:
    trims = list[HeapTrimmer]()
    monkeypatch.setattr(HeapTrimmer, "trim_if_due", lambda trimmer: trims.append(trimmer))
    engine = FakeEngine()
    engine.device_name = device
    runner = Runner(engine)
    runner.submit("request", Window(0, np.zeros(16_000, np.float32))).result()
    runner.close()
    assert bool(trims) is is_done
