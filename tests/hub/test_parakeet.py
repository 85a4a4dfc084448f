"""A Parakeet that knows the clips by heart writes each of them to the word, alone, in a batch and by the pipeline."""

from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from handler.audio.source import AudioSource
from handler.hub.engine import HubEngine
from handler.schema.options import Options
from handler.schema.window import Window, WindowResult
from handler.startup.bootstrap import build
from handler.transcription.pipeline import Pipeline
from tests.conftest import ROOT, settings
from tests.support.asking import error_of, upload
from tests.support.clips import clips
from tests.support.hub_engine import decode, engine_for, text_of
from tests.support.word_errors import plain_words

FOLDER = ROOT / "tests/assets/parakeet"
FRAME_S = 0.08


@pytest.fixture(scope="module")
def engine() -> HubEngine:
    return engine_for(FOLDER, batch_size=33)


@pytest.fixture(scope="module")
def parakeet() -> Iterator[Pipeline]:
    """Return the complete pipeline with this model."""
    pipeline = build(settings(model_id=str(FOLDER)))
    yield pipeline
    pipeline.close()


def expected() -> list[str]:
    return [plain_words(clip.text) for clip in clips()]


def test_each_clip_alone(engine: HubEngine) -> None:
    results = [decode(engine, [Window(0, clip.samples)])[0] for clip in clips()]
    assert [text_of(result) for result in results] == expected()


def test_all_clips_in_one_batch(engine: HubEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler.hub.engine.MAX_PADDING", 100.0)
    monkeypatch.setattr(engine, "_max_batch_s", 1000.0)
    engine.admit([Window(0, clip.samples) for clip in clips()])
    results: list[tuple[Window, WindowResult]] = []
    while not results:
        results = engine.advance()
    assert [text_of(result) for _, result in results] == expected()


def test_words_lie_where_their_frames_lie(engine: HubEngine) -> None:
    """Compare word times with those of a collapse that goes frame by frame."""
    from transformers import AutoProcessor, ParakeetForCTC

    processor = AutoProcessor.from_pretrained(FOLDER)
    model = ParakeetForCTC.from_pretrained(FOLDER, dtype=torch.float32).eval()
    for clip in clips()[:8]:
        with torch.inference_mode():
            ids = model(**processor(clip.samples, sampling_rate=16_000)).logits[0].argmax(-1).tolist()
        starts, frame = [], 0
        for token, run in groupby(ids):
            if token != model.config.pad_token_id and processor.tokenizer.convert_ids_to_tokens(token)[0] == "\u2581":
                starts.append(frame * FRAME_S)
            frame += len(list(run))
        words = [word for segment in decode(engine, [Window(0, clip.samples)])[0].segments for word in segment.words]
        assert [word.start for word in words] == pytest.approx(starts, abs=2 * FRAME_S)
        assert all(first.end <= second.start for first, second in pairwise(words))


async def test_clips_by_the_pipeline(parakeet: Pipeline) -> None:
    for clip in clips()[:6]:
        with clip.path.open("rb") as file:
            transcript = await parakeet.transcribe(AudioSource(file=file), Options(timestamps="word"))
        assert transcript.text == plain_words(clip.text)
        assert transcript.language is None  # the checkpoint does not say
        assert transcript.coverage.gaps == ()
        assert transcript.warnings == ()


async def test_a_file_longer_than_a_window_keeps_all_of_its_text(parakeet: Pipeline, tmp_path: Path) -> None:
    """The pipeline of transformers returns the first ten seconds of such a file alone, without a warning."""
    import soundfile

    chosen = clips()[:8]
    pause = np.zeros(80_000, np.float32)  # so long that each clip has a window of its own: it knows no others
    parts = [part for clip in chosen for part in (clip.samples, pause)]
    soundfile.write(tmp_path / "long.flac", np.concatenate(parts), 16_000)
    with (tmp_path / "long.flac").open("rb") as file:
        transcript = await parakeet.transcribe(AudioSource(file=file), Options())
    assert transcript.duration > 40
    words = transcript.text.split()
    right = sum(word in words for clip in chosen for word in plain_words(clip.text).split())
    assert right >= 0.95 * sum(len(plain_words(clip.text).split()) for clip in chosen)


@pytest.mark.parametrize(
    "options",
    [
        Options(prompt="Gutenberg"),
        Options(hotwords="Gutenberg"),
        Options(temperature=0.5),
        Options(temperature_increment_on_fallback=0.2),
        Options(best_of=2),
        Options(beam_size=2),
        Options(suppress_tokens=(5,)),
        Options(condition_on_previous_text=True),
        Options(logprob_threshold=-2.0),
        Options(task="translate"),
        Options(language="multi"),
    ],
    ids=str,
)
async def test_what_it_cannot_do_is_refused_by_name(parakeet: Pipeline, options: Options) -> None:
    changed = next(name for name in Options.json_schema() if getattr(options, name) != getattr(Options(), name))
    error = await error_of(parakeet, upload(clips()[1].path.read_bytes()), options)
    assert error.code == "invalid_request"
    assert error.field == changed
    assert changed in error.message
