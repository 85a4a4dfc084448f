"""Options that steer decoding, on real weights and by their rules alone."""

import asyncio
import io
from typing import Any

import av
import numpy as np
import pytest
import torch

from handler.errors import InvalidRequest
from handler.output.formats import render
from handler.schema.options import Options
from handler.schema.transcript import Progress, Transcript
from handler.schema.window import DecodingParams, Window
from handler.transcription.fallback import fallback_temperatures
from handler.transcription.pipeline import Pipeline
from handler.whisper.sequences import DecodeTask, Hypothesis
from handler.whisper.tokenizer import Specials
from tests.support.asking import upload
from tests.support.speech import FOX, PANGRAM, SENTENCES, say, silence, wav
from tests.support.word_errors import word_error_rate

FOX_TOKEN = 21831  # " fox" in the English vocabulary


async def test_a_suppressed_token_never_comes_and_no_other_request_notices(pipeline: Pipeline) -> None:
    data = wav(say(FOX))
    suppressed, usual, suppressed_beams = await asyncio.gather(
        pipeline.transcribe(upload(data), Options(suppress_tokens=(-1, FOX_TOKEN))),
        pipeline.transcribe(upload(data), Options()),
        pipeline.transcribe(upload(data), Options(suppress_tokens=(FOX_TOKEN,), beam_size=2)),
    )
    assert word_error_rate(FOX, usual.text) == 0
    for transcript in (suppressed, suppressed_beams):
        assert " fox" not in transcript.text
        assert "The quick brown" in transcript.text


async def test_the_usual_tokens_may_be_named_as_such(pipeline: Pipeline) -> None:
    data = wav(say(FOX))
    explicit = await pipeline.transcribe(upload(data), Options(suppress_tokens=(-1,)))
    usual = await pipeline.transcribe(upload(data), Options())
    assert explicit.segments == usual.segments


def beam_task(**params: object) -> DecodeTask:
    decoding_params = DecodingParams(num_hypotheses=4, **params)  # type: ignore[arg-type]
    window = Window(0, np.zeros(16_000, np.float32), params=decoding_params)
    return DecodeTask(window, (1,), "en", {}, torch.zeros(1), 50, 0)


@pytest.mark.parametrize(("patience", "max_candidates"), [(1.0, 4), (2.0, 8), (0.5, 2), (0.1, 1)])
def test_patience_says_how_many_texts_have_to_end(patience: float, max_candidates: int) -> None:
    assert beam_task(patience=patience).max_candidates == max_candidates


def test_a_length_penalty_prefers_longer_texts_the_greater_it_is() -> None:
    ids = Specials.of_vocab(51_864)
    short, long = Hypothesis([1, 2], [-1.0] * 2), Hypothesis([1, 2, 3, 4], [-0.9] * 4)
    assert [_best(penalty, ids, short, long) for penalty in (None, 0.0, 4.0)] == [long, short, long]


def _best(penalty: float | None, ids: Specials, *hypotheses: Hypothesis) -> Hypothesis:
    task = beam_task(length_penalty=penalty)
    task.finished = list(hypotheses)
    return task.best(ids)


async def test_patience_and_a_length_penalty_leave_clear_speech_as_it_is(pipeline: Pipeline) -> None:
    options = Options(beam_size=3, patience=2.0, length_penalty=1.0)
    transcript = await pipeline.transcribe(upload(wav(say(FOX))), options)
    assert word_error_rate(FOX, transcript.text) == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(temperature_increment_on_fallback=0.5), [0.0, 0.5, 1.0]),
        (Options(temperature_increment_on_fallback=0), [0.0]),
        (Options(temperature=0.4, temperature_increment_on_fallback=0.3), [0.4, 0.7, 1.0]),
        (Options(temperature=1, temperature_increment_on_fallback=0.3), [1.0]),
    ],
)
def test_the_step_of_the_fallback_may_be_given(options: Options, expected: list[float]) -> None:
    assert list(fallback_temperatures(options)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("-1", (-1,)), ("-1, 50", (-1, 50)), ("", ()), ([50, 51], (50, 51)), ("7", (7,))],
)
def test_tokens_come_as_a_text_or_a_list(value: object, expected: tuple[int, ...]) -> None:
    assert Options.parse({"suppress_tokens": value}).suppress_tokens == expected


@pytest.mark.parametrize("value", ["a", "-2", [1.5], ["5"], [True], 7, {"a": 1}, [None], "1-2"])
def test_what_is_no_token_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match="suppress_tokens"):
        Options.parse({"suppress_tokens": value})


async def test_a_start_within_the_audio_leaves_out_what_is_before_it(pipeline: Pipeline) -> None:
    first, second = say(SENTENCES[0]), say(SENTENCES[1])
    data = wav(np.concatenate((first, silence(4.0), second)))
    start = len(first) / 16_000 + 2.0
    transcript = await pipeline.transcribe(upload(data), Options(start_at=start))
    assert word_error_rate(SENTENCES[1], transcript.text) <= 0.15
    assert transcript.segments[0].start >= start
    assert transcript.duration == pytest.approx(start + 2.0 + len(second) / 16_000, abs=0.05)


def test_a_step_that_would_try_hundreds_of_times_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="temperature_increment_on_fallback must be 0, or at least"):
        Options.parse({"temperature_increment_on_fallback": 1e-9})


def two_tracks(*texts: str) -> bytes:
    """Return a Matroska file with a track of speech for each text."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        streams = [container.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in texts]
        for stream, text in zip(streams, texts, strict=True):
            samples = np.round(say(text) * 32_767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
            frame.sample_rate, frame.pts = 16_000, 0
            container.mux([*stream.encode(frame), *stream.encode()])
    return file.getvalue()


@pytest.mark.parametrize("track", [0, 1])
async def test_the_audio_track_may_be_chosen(pipeline: Pipeline, track: int) -> None:
    texts = (FOX, SENTENCES[0])
    transcript = await pipeline.transcribe(upload(two_tracks(*texts)), Options(audio_track=track))
    assert word_error_rate(texts[track], transcript.text) <= 0.1


@pytest.mark.parametrize("data", [wav(say(FOX)), wav(say(FOX), format="FLAC")], ids=["wav", "flac"])
async def test_an_audio_track_that_is_not_there_is_refused(pipeline: Pipeline, data: bytes) -> None:
    transcript = await pipeline.transcribe(upload(data), Options(audio_track=0))
    assert word_error_rate(FOX, transcript.text) == 0
    with pytest.raises(InvalidRequest, match="audio_track"):
        await pipeline.transcribe(upload(data), Options(audio_track=1))


async def test_phrases_are_replaced_in_words_subtitles_and_progress(pipeline: Pipeline) -> None:
    options = Options.parse({"replace": '{"quick brown": "slow grey", "lazy": "brisk"}', "timestamps": "word"})
    items = [item async for item in pipeline.stream(upload(wav(say(FOX))), options)]
    assert isinstance(items[-1], Transcript)
    assert items[-1].text == "The slow grey fox jumps over the brisk dog."
    told = "".join(segment.text for item in items[:-1] if isinstance(item, Progress) for segment in item.final_segments)
    assert told.strip() == items[-1].text
    assert [word.text for word in items[-1].segments[0].words][1] == " slow grey"
    assert "slow grey fox" in str(render(items[-1], "srt"))


async def test_what_is_sensitive_is_redacted_wherever_text_is_told(pipeline: Pipeline) -> None:
    numbers = {"brown fox": "4111 1111", "jumps over": "1111 1111", "dog": "an@example.org"}
    options = Options.parse({"replace": numbers, "redact": "card,email", "timestamps": "word"})
    before = pipeline.stats().counters.get("redacted", 0)
    items = [item async for item in pipeline.stream(upload(wav(say(FOX))), options)]
    transcript = items[-1]
    assert isinstance(transcript, Transcript)
    assert transcript.text == "The quick [CARD] the lazy [EMAIL]."
    told = "".join(segment.text for item in items[:-1] if isinstance(item, Progress) for segment in item.final_segments)
    assert told.strip() == transcript.text
    answer: Any = render(transcript, "verbose_json")
    assert answer["redacted"] == {"email": 1, "card": 1}
    assert " ".join(word["word"] for word in answer["chunks"][0]["words"]) == transcript.text
    assert answer["segments"][0]["tokens"] == []
    for format in ("srt", "vtt", "tsv", "text"):
        assert "1111" not in str(render(transcript, format))
        assert "[CARD]" in str(render(transcript, format))
    assert pipeline.stats().counters["redacted"] == before + 2


async def test_paragraphs_are_told_and_parted(pipeline: Pipeline) -> None:
    samples = np.concatenate((say(FOX), silence(4), say(PANGRAM)))
    transcript = await pipeline.transcribe(upload(wav(samples)), Options(paragraphs=True))
    answer: Any = render(transcript, "json")
    assert [paragraph["text"].split()[0] for paragraph in answer["paragraphs"]] == ["The", "Pack"]
    first, second = str(render(transcript, "text")).split("\n\n")
    assert (first.split()[0], second.split()[0]) == ("The", "Pack")
