"""The engine on real weights: the same tokens as `transformers`' own Whisper, and the same alone as in a batch."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from handler.schema.window import SAMPLE_RATE, DecodingParams, Window, WindowResult
from handler.whisper.dims import Dims
from handler.whisper.engine import WhisperEngine
from handler.whisper.loading import auto_batch_size, load_engine
from handler.whisper.sequences import DecodeTask, Hypothesis
from handler.whisper.timestamps import split_segments
from handler.whisper.tokenizer import Specials
from tests.conftest import settings
from tests.support.layouts import write_transformers
from tests.support.speech import FOX, PANGRAM, SENTENCES, Samples, say, silence
from tests.support.word_errors import word_error_rate


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> WhisperEngine:
    engine = load_engine(tiny_folder, settings(batch_size=4, audio_context="full"))
    engine._sharing._has_background = False  # windows are prepared at once, however busy the machine is
    return engine


@pytest.fixture(scope="module")
def base(base_folder: Path) -> WhisperEngine:
    return load_engine(base_folder, settings(batch_size=4, audio_context="full"))


def recording(name: str, method: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    """Wrap a method so that each call appends `name` to `calls`."""

    def call(*args: Any) -> Any:
        calls.append(name)
        return method(*args)

    return call


def test_a_step_reads_from_the_device_once(tiny: WhisperEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = list[str]()
    tiny.admit([Window(0, say(FOX)), Window(1, say(PANGRAM))])
    while tiny._preparation.width():
        assert tiny.advance() == []
    for name in ("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"):
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, recording(name, method, reads))
    assert tiny.advance() == []
    assert reads == ["numpy"]
    monkeypatch.undo()
    while tiny._batch.sequences:
        tiny.advance()


def run(engine: WhisperEngine, windows: list[Window]) -> list[WindowResult]:
    """Return the results of windows in order; windows are admitted as soon as there are free slots."""
    waiting, results = list(windows), dict[Window, WindowResult]()
    while len(results) < len(windows):
        free, admitted = engine.free(), list[Window]()
        while waiting and (free := free - waiting[0].params.num_hypotheses) >= 0:
            admitted.append(waiting.pop(0))
        if admitted:
            engine.admit(admitted)
        results |= dict(engine.advance())
    return [results[window] for window in windows]


def tokens_of(result: WindowResult) -> list[int]:
    return [token for segment in result.segments for token in segment.tokens]


def text_of(result: WindowResult) -> str:
    return "".join(segment.text for segment in result.segments)


def tokens_by_transformers(folder: Path, target: Path, samples: Samples, **options: Any) -> list[int]:
    """Return the text tokens of transformers.WhisperForConditionalGeneration, greedy, in float32."""
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    from handler.whisper.checkpoint.reader import open_checkpoint

    if not target.exists():
        write_transformers(folder, target)
    ids = Specials.of_vocab(open_checkpoint(folder).dims.n_vocab)
    model = WhisperForConditionalGeneration.from_pretrained(target, dtype=torch.float32).eval()
    features = WhisperFeatureExtractor(feature_size=80)(samples, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(
            features.input_features, return_timestamps=True, num_beams=1, do_sample=False, **options
        )
    return [token for token in tokens[0].tolist() if token < ids.eot]


LONG = " ".join(SENTENCES[:4])


@pytest.mark.filterwarnings("ignore")  # of transformers' own
@pytest.mark.parametrize("text", [FOX, PANGRAM, LONG])
def test_tiny_en_decodes_the_same_tokens_as_transformers(
    tiny: WhisperEngine, tiny_folder: Path, transformers_folder: Path, text: str
) -> None:
    expected = tokens_by_transformers(tiny_folder, transformers_folder / "tiny", say(text))
    assert tokens_of(run(tiny, [Window(0, say(text))])[0]) == expected


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", ["transcribe", "translate"])
@pytest.mark.parametrize("language", ["en", "de"])
def test_base_decodes_the_same_tokens_as_transformers(
    base: WhisperEngine, base_folder: Path, transformers_folder: Path, language: str, task: str
) -> None:
    expected = tokens_by_transformers(
        base_folder, transformers_folder / "base", say(PANGRAM), language=language, task=task
    )
    params = DecodingParams(language=language, task=task)
    assert tokens_of(run(base, [Window(0, say(PANGRAM), params=params)])[0]) == expected


@pytest.fixture(scope="module")
def transformers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for converted checkpoints."""
    return tmp_path_factory.mktemp("transformers")


def test_a_short_window_is_encoded_in_a_short_context_and_a_long_one_in_full(tiny_folder: Path) -> None:
    engine = load_engine(tiny_folder, settings(batch_size=3, audio_context="short"))
    short, padded, full = Window(0, say(FOX)[: 3 * SAMPLE_RATE]), Window(0, say(FOX)), Window(0, say(LONG))
    lengths = [len(encoded.audio) for encoded in engine._encoder.encode([short, padded])]
    assert lengths == [500, math.ceil((padded.seconds + 6) / 2) * 100]
    texts = [text_of(result) for result in run(engine, [padded, full, short])]
    assert word_error_rate(FOX, texts[0]) == 0
    assert word_error_rate(LONG, texts[1]) <= 0.12
    assert texts == [text_of(run(engine, [window])[0]) for window in (padded, full, short)]


def test_known_words_are_understood(tiny: WhisperEngine) -> None:
    for sentence in SENTENCES[:3]:
        assert word_error_rate(sentence, text_of(run(tiny, [Window(0, say(sentence))])[0])) <= 0.1


def test_a_window_decodes_the_same_alone_and_in_a_batch_that_others_enter_and_leave(tiny: WhisperEngine) -> None:
    texts = [*SENTENCES, FOX, LONG, PANGRAM]
    batched = run(tiny, [Window(0, say(text)) for text in texts])
    single = [run(tiny, [Window(0, say(text))])[0] for text in texts]
    assert [tokens_of(result) for result in batched] == [tokens_of(result) for result in single]


def test_dropping_a_window_leaves_the_others_as_they_were(tiny: WhisperEngine) -> None:
    windows = [Window(0, say(text)) for text in (LONG, FOX, PANGRAM)]
    expected = [tokens_of(run(tiny, [window])[0]) for window in windows[1:]]
    tiny.admit(windows)
    results = dict(tiny.advance())
    tiny.drop([windows[0]])
    assert tiny.free() == 2
    while len(results) < 2:
        results |= dict(tiny.advance())
    assert [tokens_of(results[window]) for window in windows[1:]] == expected
    assert tiny.free() == 4


def test_a_window_that_reaches_max_new_tokens_is_continued(tiny: WhisperEngine, tiny_folder: Path) -> None:
    short = load_engine(tiny_folder, settings(batch_size=1, max_new_tokens=5))
    expected = run(tiny, [Window(0, say(LONG))])[0]
    assert len(tokens_of(expected)) > 40
    assert tokens_of(run(short, [Window(0, say(LONG))])[0]) == tokens_of(expected)


def test_a_loop_is_searched_for_every_max_new_tokens(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = list[int]()

    def record_length(tokens: list[int]) -> None:
        lengths.append(len(tokens))

    monkeypatch.setattr("handler.whisper.batch.loop_start", record_length)
    run(load_engine(tiny_folder, settings(batch_size=1, max_new_tokens=16)), [Window(0, say(LONG))])
    assert len(lengths) >= 2


def test_the_language_is_detected(base: WhisperEngine) -> None:
    (result,) = run(base, [Window(0, say(PANGRAM))])
    assert result.language == "en"
    assert result.languages["en"] > 0.9
    (detection,) = run(base, [Window(0, say(PANGRAM), params=DecodingParams(detect_only=True))])
    assert (detection.language, detection.segments) == ("en", ())


def test_a_prompt_is_taken_into_account_and_never_echoed(tiny: WhisperEngine) -> None:
    samples = say("My colleague Kaylee Smyth wrote to Jon.")
    unprompted = text_of(run(tiny, [Window(0, samples)])[0])
    params = DecodingParams(prompt="A letter from Kaylee Smyth to Jon.")
    prompted = text_of(run(tiny, [Window(0, samples, params=params)])[0])
    assert "Smyth" in prompted
    assert "Smyth" not in unprompted
    assert "letter" not in prompted


def test_a_prompt_too_long_keeps_its_end(tiny: WhisperEngine) -> None:
    samples = say("My colleague Kaylee Smyth wrote to Jon.")
    params = DecodingParams(prompt=" ".join(SENTENCES * 3) + " A letter from Kaylee Smyth to Jon.")
    prompted = text_of(run(tiny, [Window(0, samples, params=params)])[0])
    assert "Smyth" in prompted


def test_silence_and_noise_have_evidence_against_them(tiny: WhisperEngine) -> None:
    (result,) = run(tiny, [Window(0, silence(5))])
    assert result.evidence is not None
    assert result.evidence.no_speech_prob > 0.5


def test_evidence_of_clear_speech(tiny: WhisperEngine) -> None:
    evidence = run(tiny, [Window(0, say(FOX))])[0].evidence
    assert evidence is not None
    assert -0.5 < evidence.avg_logprob < 0
    assert evidence.no_speech_prob < 0.1
    assert 0.5 < evidence.compression_ratio < 2.4
    assert not evidence.looped


def test_words_have_the_tokens_of_their_segment_and_these_the_mean_that_is_evidence(tiny: WhisperEngine) -> None:
    (segment,) = run(tiny, [Window(0, say(FOX))])[0].segments
    tokens = [pair for word in segment.words for pair in word.tokens]
    assert tuple(token for token, _ in tokens) == segment.tokens
    assert b"".join(tiny.token_bytes(token) for token, _ in tokens).decode() == segment.text
    assert segment.evidence is not None
    non_text_tokens = segment.evidence.tokens - len(tokens)  # timestamps and the end of text
    assert sum(logprob for _, logprob in tokens) >= segment.evidence.avg_logprob * segment.evidence.tokens
    assert non_text_tokens in (2, 3)


def test_the_openai_layout_and_the_ctranslate2_layout_give_the_same_text(
    tiny: WhisperEngine, tiny_folder: Path, tmp_path: Path
) -> None:
    from tests.support.layouts import write_openai

    openai = load_engine(write_openai(tiny_folder, tmp_path / "pt"), settings(batch_size=1))
    assert tokens_of(run(openai, [Window(0, say(PANGRAM))])[0]) == tokens_of(run(tiny, [Window(0, say(PANGRAM))])[0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes_understand_the_same_words(tiny_folder: Path, dtype: str) -> None:
    engine = load_engine(tiny_folder, settings(batch_size=2, dtype=dtype))
    assert engine._workshop.dtype == getattr(torch, dtype)
    assert word_error_rate(PANGRAM, text_of(run(engine, [Window(0, say(PANGRAM))])[0])) <= 0.06


def test_flash_attention_on_a_cpu_falls_back_and_logs_why(tiny_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="asr")
    load_engine(tiny_folder, settings(batch_size=1, flash_attention_2=True))
    fields = caplog.records[-1].fields  # type: ignore[attr-defined]
    assert fields["attention"] in ("blocked", "sdpa_transposed", "sdpa_throughout")
    assert "needs a CUDA device" in fields["attention_reason"]


SMALL_CONTEXT = 40  # tokens: far fewer than a long window needs


@pytest.fixture(scope="module")
def cramped(tiny_folder: Path) -> WhisperEngine:
    """Load tiny.en with a context too small for a full window."""
    engine = load_engine(tiny_folder, settings(batch_size=1))
    engine._model.dims = replace(engine._model.dims, n_text_ctx=SMALL_CONTEXT)
    engine._cache.context = SMALL_CONTEXT
    return engine


def test_a_window_whose_context_runs_out_ends_after_its_last_complete_segment(cramped: WhisperEngine) -> None:
    window = Window(0, say(LONG))
    (first,) = run(cramped, [window])
    assert first.seek_s is not None
    assert first.evidence is not None
    assert first.evidence.exhausted
    assert first.segments[-1].start < first.seek_s < window.seconds
    texts = [text_of(first)]
    result = first
    while result.seek_s:
        window = window.part(window.start + round(result.seek_s * SAMPLE_RATE), window.end)
        (result,) = run(cramped, [window])
        texts.append(text_of(result))
    assert word_error_rate(LONG, " ".join(texts)) <= 0.12


def test_a_loop_is_removed_and_reported_and_decoding_goes_on_after_the_text_before_it(tiny: WhisperEngine) -> None:
    ids = tiny._tokenizer.specials
    text_ids = tiny._tokenizer.encode(" The fox jumps.")
    loop = tiny._tokenizer.encode(" over and")

    def result(tokens: list[int]) -> tuple[str, float | None]:
        hypothesis = Hypothesis(tokens, [0.0] * len(tokens))
        task = DecodeTask(Window(0, silence(20)), (ids.sot,), "en", {}, torch.zeros(0), 1500, 0, finished=[hypothesis])
        segments, found = tiny._result_builder._read(hypothesis, task)
        assert found.evidence is not None
        assert found.evidence.looped
        return "".join(tiny._tokenizer.decode(segment.ids) for segment in segments), found.seek_s

    end = ids.timestamp_begin + 250
    assert result([ids.timestamp_begin, *text_ids, end, end, *loop * 30, ids.eot]) == (" The fox jumps.", 5.0)
    assert result([ids.timestamp_begin, *loop * 30, ids.eot]) == (" over and", None)


T = 50_363  # timestamp_begin of an English-only vocabulary


@pytest.mark.parametrize(
    ("tokens", "expected", "expected_seek_s"),
    [
        ([T, 5, 6, T + 100], [(0, 2, [5, 6])], None),
        ([T, 5, T + 100, T + 100], [(0, 2, [5])], 2.0),
        ([T, 5, T + 100, T + 100, 6], [(0, 2, [5]), (2, 10, [6])], None),
        ([T, 5, T + 100, T + 150, 6, T + 200], [(0, 2, [5]), (3, 4, [6])], None),
        ([T, 5, T + 1500], [(0, 10, [5])], None),
        ([], [], None),
    ],
)
def test_segments_lie_between_timestamps(
    tokens: list[int], expected: list[tuple[float, float, list[int]]], expected_seek_s: float | None
) -> None:
    segments, seek_s = split_segments(tokens, 10.0, Specials.of_vocab(51_864))
    assert [(segment.start_s, segment.end_s, segment.ids) for segment in segments] == expected
    assert seek_s == expected_seek_s


def test_a_halved_batch_decodes_windows_admitted_later(tiny_folder: Path) -> None:
    engine = load_engine(tiny_folder, settings(batch_size=4))
    windows = [Window(0, say(text)) for text in SENTENCES[:3]]
    engine.admit(windows)
    engine.advance()
    engine.halve()
    assert (engine.max_batch_size, engine._batch.free()) == (2, 2)
    for window, sentence in zip(windows, SENTENCES, strict=False):
        assert word_error_rate(sentence, text_of(run(engine, [window])[0])) <= 0.1


def test_the_automatic_batch_size_is_limited_by_memory_and_by_benefit() -> None:
    dims = Dims(128, 1500, 1280, 20, 32, 51_866, 448, 1280, 20, 32)  # large-v3: about 340 MB a slot with its text
    gib = 1024**3
    assert auto_batch_size(dims, torch.float16, 0, "cuda") == 1
    small, large = (auto_batch_size(dims, torch.float16, memory * gib, "cuda") for memory in (10, 20))
    assert 10 < small < large < 64
    assert auto_batch_size(dims, torch.float16, 1000 * gib, "cuda") == 64
    assert auto_batch_size(dims, torch.bfloat16, 1000 * gib, "cpu") == 16
    assert auto_batch_size(dims, torch.float32, 10 * gib, "cuda") < small


def test_an_automatic_batch_size_uses_the_free_memory(tiny_folder: Path) -> None:
    assert load_engine(tiny_folder, settings(batch_size=None)).max_batch_size == 16
