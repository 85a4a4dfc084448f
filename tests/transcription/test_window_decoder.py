"""One window to its text, against an engine that says what the test wants it to say."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from handler.schema.options import Options
from handler.schema.transcript import Evidence, Segment
from handler.schema.window import SAMPLE_RATE, Window, WindowResult
from handler.transcription.window_decoder import WindowDecoder, DecodedWindow
from tests.support.segments import spoken, text_of

GOOD = Evidence(-0.3, 0.01, 1.5, 0.0, 30, looped=False)
BAD = replace(GOOD, avg_logprob=-2.0)


class Engine:
    """Answers each window by a function of it, and keeps what it was asked."""

    def __init__(self, answer: Callable[[Window], WindowResult]) -> None:
        self.asked = list[Window]()
        self._answer = answer

    async def __call__(self, window: Window) -> WindowResult:
        self.asked.append(window)
        return self._answer(window)


def says(*segments: Segment, evidence: Evidence = GOOD, seek_s: float | None = None) -> WindowResult:
    return WindowResult(segments, evidence, "en", {}, seek_s)


def window(seconds: float = 20.0) -> Window:
    count = round(seconds * SAMPLE_RATE)
    return Window(0, np.ones(count, np.float32), speech=((0, count),))


def words(text: str, start: float) -> Segment:
    return spoken(text, start, 0.5)


async def read(engine: Engine, options: Options | None = None, audio: Window | None = None) -> tuple[str, DecodedWindow]:
    reading = await WindowDecoder(engine, options or Options(), rows=4).read(audio or window())
    return text_of(reading.segments), reading


async def test_a_window_without_any_text_is_not_decoded_the_same_way_twice() -> None:
    engine = Engine(lambda asked: says())
    assert (await read(engine))[0] == ""
    assert len(engine.asked) == 1


async def test_text_found_in_gaps_goes_where_it_was_said() -> None:
    early, late = words("a b c d e f g h", 0.0), words("u v w x y z", 17.0)
    middle = words("l m n o", 9.0)
    whole = Segment(0, 20, "", words=(*early.words, *middle.words, *late.words))

    def answer(asked: Window) -> WindowResult:
        if asked.seconds == 20:
            return says(replace(whole, text="".join(word.text for word in whole.words)))
        start = asked.start / SAMPLE_RATE
        return says(words("h i j k", 0.5)) if start < 8 else says(words("o p q r s t u", 0.5))

    engine = Engine(answer)
    assert (await read(engine))[0] == " ".join("abcdefghijklmnopqrstuvwxyz")
    assert [asked.params.language for asked in engine.asked[1:]] == [None, None]


async def test_a_gap_is_filled_only_with_what_is_sure() -> None:
    def answer(asked: Window) -> WindowResult:
        return says(words("a b c d e f", 0.0)) if asked.seconds == 20 else says(words("nonsense", 1.0), evidence=BAD)

    text, reading = await read(Engine(answer))
    assert text == "a b c d e f"
    assert reading.warnings == []


async def test_temperatures_rise_until_a_text_is_accepted_and_only_for_its_window() -> None:
    full = words(" ".join("abcdefghijklmnopqrstuvwxyzabcdefghijklmn"), 0.0)

    def answer(asked: Window) -> WindowResult:
        return says(full, evidence=replace(GOOD if asked.params.temperature >= 0.4 else BAD, temperature=asked.params.temperature))

    engine = Engine(answer)
    await read(engine)
    assert [(asked.params.temperature, asked.params.num_hypotheses) for asked in engine.asked] == [(0.0, 1), (0.2, 4), (0.4, 4)]
    assert all(asked.samples is engine.asked[0].samples for asked in engine.asked)


async def test_where_nothing_is_accepted_the_best_is_kept() -> None:
    def answer(asked: Window) -> WindowResult:
        chance = {0.0: -3.0, 0.6: -1.5}.get(asked.params.temperature, -2.0)
        text = words(" ".join([f"t{asked.params.temperature:.1f}".replace(".", "")] * 40), 0.0)
        return says(text, evidence=replace(BAD, avg_logprob=chance))

    text, _ = await read(Engine(answer))
    assert set(text.split()) == {"t06"}


async def test_an_echo_of_the_context_is_replaced_by_what_is_heard_without_it() -> None:
    names = "gutenberg fust schoeffer subiaco"

    def echoing(asked: Window) -> WindowResult:
        return says(words(names if asked.params.hotwords else "good morning everybody here", 0.0))

    hinted = window(2.0).with_params(hotwords="Gutenberg, Fust, Schoeffer, Subiaco")
    assert (await read(Engine(echoing), audio=hinted))[0] == "good morning everybody here"

    def saying(asked: Window) -> WindowResult:
        return says(words(names if asked.params.hotwords else "guttenberg foust schofer subiako", 0.0))

    assert (await read(Engine(saying), audio=hinted))[0] == names


async def test_the_rest_of_a_window_is_decoded_with_its_language_and_no_word_twice() -> None:
    def answer(asked: Window) -> WindowResult:
        if asked.seconds == 20:
            return says(words(" ".join("abcdefghijklmnopqrst"), 0.0), seek_s=9.8)
        return says(words(" ".join("uvwxyzabcdefghijklmn"), 0.0))

    engine = Engine(answer)
    text, _ = await read(engine)
    assert text == " ".join("abcdefghijklmnopqrstuvwxyzabcdefghijklmn")
    assert engine.asked[1].start == 10 * SAMPLE_RATE  # the last word goes on until there
    assert engine.asked[1].params.language == "en"


async def test_a_rest_with_hardly_any_speech_is_left_out() -> None:
    def answer(asked: Window) -> WindowResult:
        return says(words(" ".join("abcdefghijklmnopqrstuvwxyzabcdefghijklmn"), 0.0), seek_s=19.8)

    engine = Engine(answer)
    await read(engine)
    assert len(engine.asked) == 1
