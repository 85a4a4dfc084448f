"""Windows that are prepared beside the decoding of others: same results, and none that nobody wants any more."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from handler.errors import OutOfMemory
from handler.schema.window import Window, WindowResult
from handler.whisper.encoding import EncodedAudio
from handler.whisper.engine import WhisperEngine
from handler.whisper.loading import load_engine
from handler.whisper.preparation import BackgroundThread, PreparedWindow, Work
from tests.conftest import settings
from tests.support.speech import FOX, PANGRAM, SENTENCES, say
from tests.whisper.test_engine import run, tokens_of

LINES = (FOX, PANGRAM, *SENTENCES[:4])


class Wanted:
    """Processors that others want, always."""

    is_contended = True

    def update(self) -> None:
        pass


class PausedThread(BackgroundThread):
    """A thread that notes how many windows it is given, and works only while it may."""

    def __init__(self) -> None:
        super().__init__(1)
        self.may_work = threading.Event()
        self.may_work.set()
        self.num_started = 0

    def start(self, work: Work, inputs: Sequence[Tensor]) -> None:
        def wait_and_work() -> list[PreparedWindow]:
            assert self.may_work.wait(60)
            return work()

        self.num_started += 1
        super().start(wait_and_work, inputs)


@pytest.fixture(scope="module")
def module_engine(tiny_folder: Path) -> WhisperEngine:
    engine = load_engine(tiny_folder, settings(batch_size=3))
    engine._sharing._contention = Wanted()  # type: ignore[assignment]
    return engine


@pytest.fixture
def background(module_engine: WhisperEngine) -> PausedThread:
    return PausedThread()


@pytest.fixture
def engine(module_engine: WhisperEngine, background: PausedThread) -> Iterator[WhisperEngine]:
    """Return an engine with a background whose batch is empty."""
    module_engine._preparation._background = background
    module_engine._sharing._has_background = True
    yield module_engine
    background.may_work.set()
    module_engine._preparation.abandon()
    module_engine.drop([sequence.task.window for sequence in module_engine._batch.sequences])


def windows() -> list[Window]:
    return [Window(0, say(text)) for text in LINES]


@pytest.fixture(scope="module")
def expected(tiny_folder: Path) -> list[WindowResult]:
    return run(load_engine(tiny_folder, settings(batch_size=3)), windows())


def test_results_are_those_of_an_engine_without_a_background(
    engine: WhisperEngine, background: PausedThread, expected: list[WindowResult]
) -> None:
    assert list(map(tokens_of, run(engine, windows()))) == list(map(tokens_of, expected))
    assert background.num_started > 0


def advance_until(engine: WhisperEngine, condition: Callable[[], bool]) -> dict[Window, WindowResult]:
    results = dict[Window, WindowResult]()
    while not condition():
        results |= dict(engine.advance())
    return results


def start_in_background(engine: WhisperEngine, background: PausedThread) -> tuple[Window, Window]:
    """Return a window that is decoded, and one that the background is held up with."""
    first, second = windows()[:2]
    engine.admit([first])
    engine.advance()
    background.may_work.clear()
    engine.admit([second])
    engine.advance()
    assert not background.is_finished()
    return first, second


def test_windows_are_decoded_while_another_is_prepared(
    engine: WhisperEngine, background: PausedThread, expected: list[WindowResult]
) -> None:
    first, second = start_in_background(engine, background)
    results = advance_until(engine, lambda: not engine._batch.sequences)
    assert list(map(tokens_of, results.values())) == [tokens_of(expected[0])]
    background.may_work.set()
    results |= advance_until(engine, lambda: engine.free() == 4)
    assert tokens_of(results[second]) == tokens_of(expected[1])
    assert results.keys() == {first, second}


def test_a_window_that_is_dropped_while_it_is_prepared_is_never_decoded(
    engine: WhisperEngine, background: PausedThread
) -> None:
    first, second = start_in_background(engine, background)
    engine.drop([second])
    background.may_work.set()
    results = advance_until(engine, lambda: engine.free() == 4 and background.is_finished())
    assert results.keys() == {first}
    third = windows()[2]
    assert run(engine, [third])[0].segments


def test_a_smaller_batch_forgets_what_is_being_prepared(tiny_folder: Path, background: PausedThread) -> None:
    engine = load_engine(tiny_folder, settings(batch_size=4))
    engine._sharing._contention = Wanted()  # type: ignore[assignment]
    engine._preparation._background = background
    engine._sharing._has_background = True
    start_in_background(engine, background)
    background.may_work.set()
    engine.halve()
    assert engine._preparation.width() == 0
    assert run(engine, windows()[:1])[0].segments


def test_lack_of_memory_in_the_background_reaches_who_advances(
    engine: WhisperEngine, background: PausedThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = windows()[:2]
    engine.admit([first])
    engine.advance()

    def run_out(windows: list[Window]) -> list[EncodedAudio]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine._encoder, "encode", run_out)
    engine.admit([windows()[1]])
    with pytest.raises(OutOfMemory):
        advance_until(engine, lambda: not engine._batch.sequences)


def test_audio_that_was_encoded_recently_is_not_encoded_again(
    engine: WhisperEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = windows()[0]
    (result,) = run(engine, [window])
    encoded = list[Window]()
    encode = engine._encoder.encode

    def note(windows: list[Window]) -> list[EncodedAudio]:
        encoded.extend(windows)
        return encode(windows)

    monkeypatch.setattr(engine._encoder, "encode", note)
    assert tokens_of(run(engine, [window.with_params(prompt="")])[0]) == tokens_of(result)
    assert encoded == []
