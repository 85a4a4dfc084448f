"""Results that are finished in another thread: the same as those finished at once, and none of a window dropped."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from handler.schema.window import Window, WindowResult
from handler.whisper.assembly import Assembly
from handler.whisper.engine import WhisperEngine
from handler.whisper.loading import load_engine
from tests.conftest import settings
from tests.support.speech import FOX, PANGRAM, say, silence
from tests.whisper.test_engine import run

RESULT = WindowResult((), None, "en", {})


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def test_windows_are_done_when_the_thread_is(executor: ThreadPoolExecutor) -> None:
    assembly, may_finish = Assembly(executor), Event()
    first, second = Window(0, silence(1)), Window(1, silence(1))

    def finish() -> WindowResult:
        may_finish.wait(60)
        return RESULT

    assembly.add(first, finish)
    assembly.add(second, finish)
    assert assembly.take(wait=False) == []
    assembly.drop([first])
    may_finish.set()
    assert assembly.take(wait=True) == [(second, RESULT)]
    assert assembly.take(wait=True) == []


def test_an_engine_gives_the_same_results_from_another_thread(tiny_folder: Path, executor: ThreadPoolExecutor) -> None:
    def results(engine: WhisperEngine) -> list[WindowResult]:
        return run(engine, [Window(0, say(text)) for text in (FOX, PANGRAM)])

    engine = load_engine(tiny_folder, settings(batch_size=1, audio_context="full"))
    expected = results(engine)
    assert all(result.segments for result in expected)
    engine._assembly = Assembly(executor)
    assert results(engine) == expected
