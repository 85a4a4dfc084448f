"""ALIGN_MODEL: words of texts that another model decoded have the times that Whisper's own words have."""

import asyncio
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from handler.audio.source import AudioSource
from handler.errors import ModelUnavailable
from handler.schema.options import Options
from handler.schema.transcript import Segment, Transcript, Word
from handler.schema.window import Window, WindowResult
from handler.settings import SettingsError
from handler.startup.bootstrap import build
from handler.transcription.pipeline import Pipeline
from handler.transcription.word_edits import all_words, normalize_word
from handler.whisper.aligner import WhisperAligner
from handler.whisper.loading import load_aligner
from tests.conftest import ROOT, TINY, package, settings
from tests.support.asking import error_of, upload
from tests.support.clips import Clip, clips
from tests.support.hub_models import save_model
from tests.support.moonshine import save_moonshine

MAX_DIFFERENCE_S = 0.06  # the median over starts and ends of words


@pytest.fixture(scope="module")
def moonshine_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_moonshine(package("moonshine_voice") / "assets/tiny-en", tmp_path_factory.mktemp("moonshine"))


@pytest.fixture(scope="module")
def aligned(moonshine_folder: Path) -> Iterator[Pipeline]:
    """Return a pipeline with Moonshine tiny, whose words Whisper tiny.en times."""
    pipeline = build(settings(model_id=str(moonshine_folder), align_model=TINY))
    yield pipeline
    pipeline.close()


@pytest.fixture(scope="module")
def multilingual(base_folder: Path) -> WhisperAligner:
    return load_aligner(base_folder, settings(align_model=str(base_folder)))


@pytest.fixture(scope="module")
def english(tiny_folder: Path) -> WhisperAligner:
    return load_aligner(tiny_folder, settings(align_model=TINY))


async def transcribe(pipeline: Pipeline, clip: Clip) -> Transcript:
    with clip.path.open("rb") as file:
        return await pipeline.transcribe(AudioSource(file=file), Options(timestamps="word"))


def differences_s(first: list[Word], second: list[Word]) -> list[float]:
    """Return how far the starts and ends of the words that two texts share lie apart."""
    mine, theirs = ([normalize_word(word) for word in words] for words in (first, second))
    blocks = SequenceMatcher(None, mine, theirs, autojunk=False).get_matching_blocks()
    pairs = [(first[block.a + i], second[block.b + i]) for block in blocks for i in range(block.size)]
    return [abs(a_s - b_s) for a, b in pairs for a_s, b_s in ((a.start, b.start), (a.end, b.end))]


async def test_words_have_the_times_of_whispers_own(aligned: Pipeline, pipeline: Pipeline) -> None:
    differences: list[float] = []
    for clip in clips()[:16]:
        own, other = await asyncio.gather(transcribe(pipeline, clip), transcribe(aligned, clip))
        words = all_words(other.segments)
        assert "".join(word.text for word in words) == "".join(segment.text for segment in other.segments)
        edges = [edge for word in words for edge in (word.start, word.end)]
        assert edges == sorted(edges)
        assert 0 <= edges[0] <= edges[-1] <= other.duration
        assert all(0 < word.probability <= 1 for word in words)
        differences += differences_s(all_words(own.segments), words)
    assert len(differences) > 400
    assert median(differences) <= MAX_DIFFERENCE_S


async def test_segments_are_divided_and_last_as_long_as_their_words(aligned: Pipeline) -> None:
    clip = next(clip for clip in clips() if clip.path.stem == "jfk")
    transcript = await transcribe(aligned, clip)
    assert len(transcript.segments) > 1
    for segment in transcript.segments:
        assert (segment.start, segment.end) == (segment.words[0].start, segment.words[-1].end)
    assert transcript.coverage.gaps == ()


async def test_what_it_can_do_is_told_and_what_not_is_refused(aligned: Pipeline) -> None:
    capabilities = aligned.engine.capabilities
    assert capabilities.word_times
    assert not capabilities.token_logprobs
    error = await error_of(aligned, upload(clips()[1].path.read_bytes()), Options(hotwords="x"))
    assert (error.code, error.field) == ("invalid_request", "hotwords")


def result_of(text: str, language: str | None = None) -> WindowResult:
    return WindowResult((Segment(0.0, 1.0, text),), None, language)


def test_windows_together_get_the_times_that_each_gets_alone(english: WhisperAligner) -> None:
    pairs = [(Window(0, clip.samples), result_of(f" {clip.text}")) for clip in clips()[:5]]
    together = english.align(pairs)
    for pair, result in zip(pairs, together, strict=True):
        (alone,) = english.align([pair])
        words, words_alone = all_words(result.segments), all_words(alone.segments)
        assert [word.text for word in words] == [word.text for word in words_alone]
        assert np.allclose([word.start for word in words], [word.start for word in words_alone], atol=0.03)


@pytest.mark.parametrize("language", ["en", None, "tlh"], ids=["stated", "unknown", "unknown to Whisper"])
def test_a_language_is_taken_as_stated_or_found_out(multilingual: WhisperAligner, language: str | None) -> None:
    clip = clips()[1]
    window, text = Window(0, clip.samples), f" {clip.text}"
    expected = all_words(multilingual.align([(window, result_of(text, "en"))])[0].segments)
    (result,) = multilingual.align([(window, result_of(text, language))])
    assert all_words(result.segments) == expected


def test_words_beyond_the_decoders_context_get_the_last_time(english: WhisperAligner) -> None:
    clip = clips()[1]
    (result,) = english.align([(Window(0, clip.samples), result_of(f" {clip.text}" * 200))])
    words = all_words(result.segments)
    assert "".join(word.text for word in words) == f" {clip.text}" * 200
    assert words[-1].probability == 0.0
    assert words[-1].end <= len(clip.samples) / 16_000


def test_a_model_that_times_its_words_needs_no_aligner(tiny_folder: Path) -> None:
    for model_id in (TINY, str(ROOT / "tests/assets/parakeet")):
        with pytest.raises(SettingsError, match=r"ALIGN_MODEL=.*times its words itself"):
            build(settings(model_id=model_id, align_model=TINY))


def test_what_is_no_whisper_cannot_align(moonshine_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"ALIGN_MODEL: .*expected a Whisper checkpoint"):
        build(settings(model_id=str(moonshine_folder), align_model=str(moonshine_folder)))
    with pytest.raises(SettingsError, match=r"a multilingual Whisper, for texts in languages that .*MODEL_LANGUAGE=en"):
        build(settings(model_id=str(save_model("moonshine_streaming", tmp_path / "model")), align_model=TINY))
    with pytest.raises(ModelUnavailable, match="ALIGN_MODEL: pkg:nothing"):
        build(settings(model_id=str(moonshine_folder), align_model="pkg:nothing/at-all"))


def test_an_english_whisper_does_not_align_other_languages(moonshine_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in moonshine_folder.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "README.md").unlink()
    (folder / "README.md").write_text("---\nlanguage: es\n---\n")
    with pytest.raises(SettingsError, match="a multilingual Whisper, for texts in es"):
        build(settings(model_id=str(folder), align_model=TINY, startup_check=False))
