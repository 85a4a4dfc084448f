"""Decoding one window, on an engine whose results the test chooses."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from handler.errors import Internal
from handler.schema.options import Options
from handler.schema.transcript import Evidence, Segment
from handler.schema.window import SAMPLE_RATE, Window, WindowResult
from handler.transcription.decoded_window import DecodedWindow
from handler.transcription.window_decoder import WindowDecoder
from tests.support.segments import make_segment, text_of

GOOD = Evidence(-0.3, 0.01, 1.5, 0.0, 30, looped=False)
BAD = replace(GOOD, avg_logprob=-2.0)


class Engine:
    """Returns for each window what a function returns, and records the windows."""

    def __init__(self, answer: Callable[[Window], WindowResult]) -> None:
        self.windows = list[Window]()
        self._answer = answer

    async def submit(self, window: Window) -> WindowResult:
        self.windows.append(window)
        return self._answer(window)


def result(*segments: Segment, evidence: Evidence = GOOD, seek_s: float | None = None) -> WindowResult:
    return WindowResult(segments, evidence, "en", {}, seek_s)


def window(seconds: float = 20.0) -> Window:
    count = round(seconds * SAMPLE_RATE)
    return Window(0, np.ones(count, np.float32), speech=((0, count),))


async def decode(
    engine: Engine, options: Options | None = None, audio: Window | None = None
) -> tuple[str, DecodedWindow]:
    decoder = WindowDecoder(engine, options or Options(), max_batch_size=4)  # type: ignore[arg-type]
    decoded = await decoder.decode(audio or window())
    return text_of(decoded.segments), decoded


async def test_a_window_without_any_text_is_not_decoded_the_same_way_twice() -> None:
    engine = Engine(lambda window: result())
    assert (await decode(engine))[0] == ""
    assert len(engine.windows) == 1


async def test_text_of_gaps_is_inserted_at_its_time() -> None:
    left, right = make_segment("a b c d e f g h", 0.0), make_segment("u v w x y z", 17.0)
    middle = make_segment("l m n o", 9.0)
    full = Segment(0, 20, "", words=(*left.words, *middle.words, *right.words))

    def answer(window: Window) -> WindowResult:
        if window.seconds == 20:
            return result(replace(full, text="".join(word.text for word in full.words)))
        start = window.start / SAMPLE_RATE
        return result(make_segment("h i j k", 0.5)) if start < 8 else result(make_segment("o p q r s t u", 0.5))

    engine = Engine(answer)
    assert (await decode(engine))[0] == " ".join("abcdefghijklmnopqrstuvwxyz")
    assert [window.params.language for window in engine.windows[1:]] == [None, None]


async def test_a_gap_is_filled_only_with_sure_text() -> None:
    def answer(window: Window) -> WindowResult:
        if window.seconds == 20:
            return result(make_segment("a b c d e f", 0.0))
        return result(make_segment("nonsense", 1.0), evidence=BAD)

    text, decoded = await decode(Engine(answer))
    assert text == "a b c d e f"
    assert decoded.warnings == []


async def test_temperatures_rise_until_a_text_is_accepted_and_only_for_its_window() -> None:
    full = make_segment(" ".join("abcdefghijklmnopqrstuvwxyzabcdefghijklmn"), 0.0)

    def answer(window: Window) -> WindowResult:
        temperature = window.params.temperature
        evidence = GOOD if temperature >= 0.4 else BAD
        return result(full, evidence=replace(evidence, temperature=temperature))

    engine = Engine(answer)
    await decode(engine)
    params = [window.params for window in engine.windows]
    assert [(each.temperature, each.num_hypotheses) for each in params] == [(0.0, 1), (0.2, 4), (0.4, 4)]
    assert all(window.samples is engine.windows[0].samples for window in engine.windows)


async def test_if_nothing_is_accepted_the_best_is_returned() -> None:
    def answer(window: Window) -> WindowResult:
        logprob = {0.0: -3.0, 0.6: -1.5}.get(window.params.temperature, -2.0)
        word = f"t{window.params.temperature:.1f}".replace(".", "")
        return result(make_segment(" ".join([word] * 40)), evidence=replace(BAD, avg_logprob=logprob))

    text, _ = await decode(Engine(answer))
    assert set(text.split()) == {"t06"}


@pytest.mark.parametrize(
    ("logprobs", "changes", "expected"),
    [
        ((-1.3, -1.2, -1.1, -1.4, -0.1), {}, [0.0, 0.2, 0.4, 0.6]),  # from 0.6 on, texts become less likely
        ((-1.3, -1.4, -1.2, -1.1, -1.05), {}, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ((-1.1, -1.5, -1.2), {}, [0.0, 0.2, 0.4]),  # few samples at 0.2 prove nothing
        ((-0.4, -0.5, -0.6), {"compression_ratio": 4.0}, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ((-1.1, -1.2, -1.3), {"looped": True}, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
    ids=["declining", "rising", "at once", "repetitive", "looped"],
)
async def test_temperatures_that_cannot_find_a_likelier_text_are_left_out(
    logprobs: tuple[float, ...], changes: dict[str, object], expected: list[float]
) -> None:
    chosen = dict(zip((0.0, 0.2, 0.4, 0.6, 0.8, 1.0), (*logprobs, *[-2.0] * 6), strict=False))

    def answer(window: Window) -> WindowResult:
        temperature = window.params.temperature
        evidence = replace(BAD, avg_logprob=chosen[temperature], temperature=temperature)
        evidence = replace(evidence, **changes)  # type: ignore[arg-type]
        text = f"{' '.join('abcdefghijklmnopqrstuvwxyz')} {temperature}"
        return result(make_segment(text, 0.0), evidence=evidence)

    engine = Engine(answer)
    await decode(engine)
    temperatures = [window.params.temperature for window in engine.windows if window.seconds == 20.0]
    assert temperatures == expected


async def test_an_echo_of_the_context_is_replaced_by_the_text_decoded_without_it() -> None:
    names = "gutenberg fust schoeffer subiaco"

    def echoing(window: Window) -> WindowResult:
        return result(make_segment(names if window.params.hotwords else "good morning everybody here", 0.0))

    hinted = window(2.0).with_params(hotwords="Gutenberg, Fust, Schoeffer, Subiaco")
    assert (await decode(Engine(echoing), audio=hinted))[0] == "good morning everybody here"

    def saying(window: Window) -> WindowResult:
        return result(make_segment(names if window.params.hotwords else "guttenberg foust schofer subiako", 0.0))

    assert (await decode(Engine(saying), audio=hinted))[0] == names


async def test_the_remaining_window_is_decoded_with_its_language_and_no_word_twice() -> None:
    def answer(window: Window) -> WindowResult:
        if window.seconds == 20:
            return result(make_segment(" ".join("abcdefghijklmnopqrst"), 0.0), seek_s=9.8)
        return result(make_segment(" ".join("uvwxyzabcdefghijklmn"), 0.0))

    engine = Engine(answer)
    text, _ = await decode(engine)
    assert text == " ".join("abcdefghijklmnopqrstuvwxyzabcdefghijklmn")
    assert engine.windows[1].start == 10 * SAMPLE_RATE  # the last word goes on until there
    assert engine.windows[1].params.language == "en"


async def test_a_remainder_with_hardly_any_speech_is_dropped() -> None:
    def answer(window: Window) -> WindowResult:
        return result(make_segment(" ".join("abcdefghijklmnopqrstuvwxyzabcdefghijklmn"), 0.0), seek_s=19.8)

    engine = Engine(answer)
    await decode(engine)
    assert len(engine.windows) == 1


def timeless(text: str, start: float) -> Segment:
    return make_segment(text, start, word_s=0.0)


async def test_a_phrase_that_is_written_twice_but_was_said_once_is_written_once() -> None:
    once = "a b c d e f g h i j k l m n o p q r s t u v w x y z a b c d e f g h i j k l m n"
    repeat = timeless(once, 20.0)
    engine = Engine(lambda window: result(make_segment(once), repeat))
    text, decoded = await decode(engine)
    assert (text, decoded.is_accepted, len(engine.windows)) == (once, True, 1)


async def test_a_text_that_ends_in_words_without_time_is_decoded_again() -> None:
    once = make_segment("a b c d e f g h i j k l m n o p q r s t u v w x y z a b c d e f g h i j k l m n")

    def answer(window: Window) -> WindowResult:
        invented = timeless("we met her on monday", 20.0)
        return result(once) if window.params.temperature >= 0.4 else result(once, invented)

    engine = Engine(answer)
    text, decoded = await decode(engine)
    assert (text, decoded.is_accepted) == (text_of([once]), True)
    assert [window.params.temperature for window in engine.windows] == [0.0, 0.2, 0.4]


REPETITIVE = replace(GOOD, compression_ratio=3.0)


@pytest.mark.parametrize(
    ("evidence", "word_s", "num_windows"),
    [
        (REPETITIVE, 0.5, 2),  # said again and again
        (REPETITIVE, 0.1, 6),  # faster than anybody speaks
        (replace(REPETITIVE, looped=True), 0.5, 6),
        (replace(REPETITIVE, avg_logprob=-2.0), 0.5, 6),
    ],
)
async def test_a_likely_text_that_comes_again_is_what_was_said_however_often_it_repeats_itself(
    evidence: Evidence, word_s: float, num_windows: int
) -> None:
    sentence = " ".join(["one two three four five six seven eight"] * 5)
    engine = Engine(lambda window: result(make_segment(sentence, word_s=word_s), evidence=evidence))
    await decode(engine, Options(vad=False), replace(window(), speech=()))
    assert len(engine.windows) == num_windows


async def test_a_text_that_changes_with_the_temperature_is_no_proof_that_it_was_said() -> None:
    def answer(window: Window) -> WindowResult:
        word = f"t{window.params.temperature:.1f}".replace(".", "")
        return result(make_segment(" ".join([word] * 40)), evidence=REPETITIVE)

    engine = Engine(answer)
    await decode(engine)
    assert len(engine.windows) == 6


async def test_a_text_whose_probability_is_no_number_is_decoded_again() -> None:
    full = make_segment(" ".join("abcdefghijklmnopqrstuvwxyzabcdefghijklmn"))

    def answer(window: Window) -> WindowResult:
        broken = replace(GOOD, avg_logprob=float("nan"))
        return result(full, evidence=GOOD if window.params.temperature else broken)

    engine = Engine(answer)
    _, decoded = await decode(engine)
    assert (len(engine.windows), decoded.is_accepted) == (2, True)


async def test_a_loop_with_a_probability_is_better_than_a_text_without_one() -> None:
    looped = replace(GOOD, looped=True)

    def answer(window: Window) -> WindowResult:
        broken = replace(GOOD, avg_logprob=float("nan"))
        return result(make_segment("a b c"), evidence=looped if window.params.temperature else broken)

    _, decoded = await decode(Engine(answer))
    assert text_of(decoded.segments).split() == ["a", "b", "c"]


async def test_a_text_without_any_probability_is_an_error_and_no_empty_transcript() -> None:
    broken = result(make_segment("!!!!"), evidence=replace(GOOD, avg_logprob=float("nan")))
    engine = Engine(lambda _: broken)
    with pytest.raises(Internal, match="no finite numbers"):
        await decode(engine)
    assert len(engine.windows) == 6
