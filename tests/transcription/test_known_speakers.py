"""Speakers who are known by a sample of their voice, in every way in."""

import base64
from collections.abc import Iterator

import httpx
import numpy as np
import openai
import pytest

from handler.errors import AsrError, InvalidRequest
from handler.output.formats import render
from handler.schema.options import Options
from handler.schema.speakers import SpeakerActivity, SpeakerModel
from handler.schema.transcript import Coverage, Transcript
from handler.transcription.pipeline import Pipeline
from handler.transcription.speaker_names import name_speakers
from tests.conftest import settings
from tests.support.asking import upload
from tests.support.conversations import Conversation, converse, voices
from tests.support.segments import make_segment
from tests.support.serving import serving
from tests.support.speech import silence, wav
from tests.support.web import Web


def sample_of(name: str) -> bytes:
    """Return a file of a voice that the conversations of these tests do not hold in full."""
    return wav(np.concatenate(voices()[name][4:6])[: 8 * 16_000], format="FLAC")


def in_base64(name: str) -> str:
    return base64.b64encode(sample_of(name)).decode()


@pytest.fixture(scope="module")
def pipeline(pipeline: Pipeline, speaker_model: SpeakerModel) -> Iterator[Pipeline]:
    """The pipeline of the tests, with a model that tells speakers apart."""
    with_speakers = Pipeline(pipeline.engine, settings(), speaker_model=speaker_model)
    yield with_speakers
    with_speakers.close()


@pytest.fixture(scope="module")
def talk() -> Conversation:
    return converse(("reader", "story"), 8)


async def ask(pipeline: Pipeline, talk: Conversation, **known: str) -> Transcript:
    options = Options(
        diarize=True, known_speaker_names=tuple(known), known_speaker_references=tuple(known.values()), vad=True
    )
    return await pipeline.transcribe(upload(wav(talk.samples)), options)


async def test_known_speakers_have_their_names_in_any_order_and_others_have_letters(
    pipeline: Pipeline, talk: Conversation
) -> None:
    both = await ask(pipeline, talk, Story=in_base64("story"), Reader=f"data:audio/flac;base64,{in_base64('reader')}")
    assert both.speakers == ("Reader", "Story")
    assert "\n\nStory: " in str(render(both, "text"))
    one = await ask(pipeline, talk, A=in_base64("story"), B=in_base64("computer"))
    assert one.speakers == ("C", "A")


async def test_a_sample_may_lie_at_an_address(pipeline: Pipeline, talk: Conversation, web: Web) -> None:
    transcript = await ask(pipeline, talk, Reader=web.put("/reader.flac", sample_of("reader")))
    assert transcript.speakers == ("Reader", "A")


@pytest.mark.parametrize(
    ("reference", "code", "told"),
    [
        (base64.b64encode(b"no sound" * 50).decode(), "unsupported_media", "expected"),
        ("???", "invalid_request", "base64"),
        (base64.b64encode(wav(voices()["reader"][0][:16_000])).decode(), "invalid_request", "2 to 10 seconds"),
        (base64.b64encode(wav(np.tile(voices()["reader"][0], 5))).decode(), "invalid_request", "2 to 10 seconds"),
        (base64.b64encode(wav(silence(4))).decode(), "invalid_request", "nobody is heard"),
        ("http://127.0.0.1:9/none", "download_blocked", "public"),
    ],
)
async def test_a_sample_that_cannot_be_used_is_refused_by_its_number(
    pipeline: Pipeline, talk: Conversation, reference: str, code: str, told: str
) -> None:
    with pytest.raises(AsrError, match=told) as info:
        await ask(pipeline, talk, Reader=in_base64("reader"), Bad=reference)
    assert (info.value.code, info.value.field) == (code, "known_speaker_references")
    assert "known_speaker_references[1]" in info.value.message


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"known_speaker_names": ["Ann"], "known_speaker_references": ["AA"]}, "known_speaker_names must come with"),
        ({"diarize": True, "known_speaker_names": ["Ann"]}, "one for each of known_speaker_names; got 0 for 1"),
        ({"diarize": True, "known_speaker_references": ["AA"]}, "got 1 for 0"),
        ({"diarize": True, "known_speaker_names": ["A", "A"]}, "different names"),
        ({"diarize": True, "known_speaker_names": ["A\nB"]}, "different names"),
        ({"diarize": True, "known_speaker_names": '["A", 1]'}, "must be a string"),
        ({"diarize": True, "known_speaker_names": []}, "a list of 1 to 10 texts"),
    ],
)
def test_options_that_do_not_fit_are_refused(values: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        Options.parse(values)


def test_a_text_is_one_item_and_json_several() -> None:
    values = {"diarize": "true", "known_speaker_names": '["Ann, Ben", "C"]', "known_speaker_references": ["a", "b"]}
    assert Options.parse(values).known_speaker_names == ("Ann, Ben", "C")
    one = Options.parse({**values, "known_speaker_names": "Ann, Ben", "known_speaker_references": "data:a;base64,AA"})
    assert one.known_speaker_references == ("data:a;base64,AA",)


def test_the_http_doors_take_arrays(pipeline: Pipeline, talk: Conversation) -> None:
    samples = {name: f"data:audio/flac;base64,{in_base64(name)}" for name in ("reader", "story")}
    with serving(pipeline) as server:
        form = {
            "diarize": "true",
            "known_speaker_names[]": ["Rea, der", "Story"],
            "known_speaker_references[]": list(samples.values()),
        }
        files = {"file": ("a.flac", wav(talk.samples, format="FLAC"))}
        answer = httpx.post(f"{server.url}/asr", data=form, files=files, timeout=120).json()
        assert answer["speakers"] == ["Rea, der", "Story"]
        form["known_speaker_names[]"] = ["B", "A"]
        headers = {"Accept": "text/event-stream"}
        stream = httpx.post(f"{server.url}/asr", data=form, files=files, headers=headers, timeout=120).text
        assert "event: error" not in stream
        assert '"speakers": ["B", "A"]' in stream
        url = f"data:audio/wav;base64,{base64.b64encode(wav(talk.samples)).decode()}"
        large = {"url": "http://127.0.0.1:9/", "diarize": True, "known_speaker_names": ["A"]}
        refused = httpx.post(f"{server.url}/asr", json={**large, "known_speaker_references": [url]}, timeout=120)
        assert refused.json()["error"]["code"] == "download_blocked"
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
            transcription = client.audio.transcriptions.create(
                file=files["file"],
                model="gpt-4o-transcribe-diarize",
                response_format="diarized_json",
                known_speaker_names=list(samples),
                known_speaker_references=list(samples.values()),
            )
    assert {segment.speaker for segment in transcription.segments} == {"reader", "story"}


def test_names_are_escaped_where_they_would_be_markup() -> None:
    active = np.ones((200, 1), bool)
    activity = SpeakerActivity(active, 0.01, names={0: "<b>=A&B"})
    (segment,) = name_speakers([make_segment("one two")], [activity])
    options = Options(diarize=True)
    coverage = Coverage(1.0, 1.0)
    transcript = Transcript("one two", (segment,), "en", None, 1.0, "m", options, {}, coverage, speakers=("<b>=A&B",))
    assert "<v &lt;b&gt;=A&amp;B>" in str(render(transcript, "vtt"))
    assert "‹b›=A&B: one two" in str(render(transcript, "srt"))
    assert "\t<b>=A&B\n" in str(render(transcript, "tsv"))
