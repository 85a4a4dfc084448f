"""The engine on recorded graphs, a GPU's twin without a GPU: same results as without, and safe where graphs are not."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from handler.engine.runner import Runner
from handler.schema.window import DecodingParams, Window, WindowResult
from handler.whisper.cuda_graphs import Capture, CapturedStep, StepFunction
from handler.whisper.encoding import AudioEncoder
from handler.whisper.engine import WhisperEngine
from handler.whisper.kv_cache import KVCache
from handler.whisper.loading import load_engine
from handler.whisper.workshop import Workshop
from tests.conftest import settings
from tests.support.replay import capture
from tests.support.speech import FOX, PANGRAM, SENTENCES, say
from tests.whisper.test_engine import run, tokens_of

LINES = (FOX, PANGRAM, *SENTENCES[:3])


@pytest.fixture(scope="module")
def eager(tiny_folder: Path) -> WhisperEngine:
    return load_engine(tiny_folder, settings(batch_size=3, audio_context="full"))


def with_capture(engine: WhisperEngine, capture: Capture | None, slots: int = 3) -> WhisperEngine:
    """Return another engine on the same weights."""
    old = engine._workshop
    suppress = old.task_builder._suppress
    workshop = Workshop(
        old.model,
        old.tokenizer,
        suppress,
        old.alignment_heads,
        attention=old.attention,
        max_new_tokens=128,
        capture=capture,
    )
    return WhisperEngine(engine.model_id, workshop, device_name=engine.device_name, slots=slots)


@pytest.fixture(scope="module")
def recorded(eager: WhisperEngine) -> WhisperEngine:
    engine = with_capture(eager, capture)
    assert engine._batch._graphs is not None
    return engine


@pytest.fixture(scope="module")
def expected(eager: WhisperEngine) -> list[WindowResult]:
    return run(eager, windows())


def events(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, object]]]:
    """Return the name and the fields of each warning."""
    return [(record.message, record.fields) for record in caplog.records]  # type: ignore[attr-defined]


def windows() -> list[Window]:
    return [Window(0, say(text)) for text in LINES]


def assert_equal(results: list[WindowResult], expected: list[WindowResult]) -> None:
    assert [tokens_of(result) for result in results] == [tokens_of(result) for result in expected]
    for result, twin in zip(results, expected, strict=True):
        assert result.evidence is not None
        assert twin.evidence is not None
        assert result.evidence.avg_logprob == pytest.approx(twin.evidence.avg_logprob, abs=0.02)


def test_five_windows_in_three_slots_are_decoded_as_without_graphs(
    recorded: WhisperEngine, expected: list[WindowResult]
) -> None:
    assert_equal(run(recorded, windows()), expected)


def test_windows_with_drafts_stand_beside_others_on_graphs(
    recorded: WhisperEngine, expected: list[WindowResult]
) -> None:
    drafted = [
        window.with_params(draft=result.tokens[: 5 * number])
        for number, (window, result) in enumerate(zip(windows(), expected, strict=True))
    ]
    assert_equal(run(recorded, drafted), expected)


PARAMS = [
    DecodingParams(num_hypotheses=3),
    DecodingParams(),
    DecodingParams(num_hypotheses=5, temperature=0.4),
    DecodingParams(num_hypotheses=7),
    DecodingParams(temperature=0.8),
]


def test_beams_and_samples_among_others_are_decoded_as_without_graphs(eager: WhisperEngine) -> None:
    mixed = [replace(window, params=params) for window, params in zip(windows(), PARAMS, strict=True)]
    expected = run(with_capture(eager, None, slots=10), mixed)
    assert_equal(run(with_capture(eager, capture, slots=10), mixed), expected)


def test_prompts_that_steps_read_lead_to_what_prefilled_ones_lead_to(base_folder: Path) -> None:
    """Some languages are given and some detected, some prompts have text, and some windows end with their language."""
    prefilled = load_engine(base_folder, settings(model_id="base", batch_size=3, audio_context="full"))
    fox, pangram = (Window(0, say(text)) for text in (FOX, PANGRAM))
    asked = [
        fox.with_params(language="en"),
        pangram,
        fox.with_params(language="fr", task="translate"),
        fox.with_params(detect_only=True),
        pangram.with_params(language="en", prompt="A list of things to pack"),
        pangram.with_params(suppress=(-1, 1, 2)),
    ]
    for result, expected in zip(run(with_capture(prefilled, capture), asked), run(prefilled, asked), strict=True):
        assert tokens_of(result) == tokens_of(expected)
        assert result.language == expected.language
        assert result.languages == pytest.approx(expected.languages, abs=0.01)
        if result.evidence is not None and expected.evidence is not None:
            assert result.evidence.no_speech_prob == pytest.approx(expected.evidence.no_speech_prob, abs=0.01)


def test_prompts_that_steps_read_move_to_other_slots_and_stand_beside_beams(base_folder: Path) -> None:
    prefilled = load_engine(base_folder, settings(model_id="base", batch_size=6, audio_context="full"))
    fox, pangram, third = (Window(0, say(text)) for text in (FOX, PANGRAM, SENTENCES[0]))
    beams = Window(0, say(SENTENCES[1]), params=DecodingParams(num_hypotheses=3, language="en"))
    kept = [pangram, third, beams]
    expected = dict(zip(kept, run(prefilled, kept), strict=True))
    engine = with_capture(prefilled, capture, slots=6)
    engine.admit([fox, *kept])
    results = dict(engine.advance())
    assert any(sequence.unread for sequence in engine._batch.sequences)
    engine.drop([fox])
    while len(results) < len(kept):
        results |= dict(engine.advance())
    for window in kept:
        assert tokens_of(results[window]) == tokens_of(expected[window])
        assert results[window].language == expected[window].language


def test_the_host_looks_at_a_step_after_the_next_one_has_begun(eager: WhisperEngine) -> None:
    begun = list[int]()

    def counting(step: StepFunction) -> CapturedStep:
        replay, result = capture(step)

        def replay_counting() -> None:
            begun.append(len(result))
            replay()

        return replay_counting, result

    engine = with_capture(eager, counting)
    begun.clear()
    engine.admit(windows()[:1])
    while not engine._batch.sequences or not (tokens := engine._batch.sequences[0].hypothesis.tokens):
        engine.advance()
    assert len(begun) == len(tokens) + 1
    results: list[tuple[Window, WindowResult]] = []
    while not results:
        results = engine.advance()
    assert results[0][1].evidence is not None
    assert len(begun) == results[0][1].evidence.tokens  # and none after the last one, which would only cost time


@torch.inference_mode()
def test_windows_are_encoded_by_graphs_as_without_and_audio_kept_is_not_overwritten(eager: WhisperEngine) -> None:
    encoder = AudioEncoder(eager._model, torch.device("cpu"), torch.float32, False, capture)
    twin = AudioEncoder(eager._model, torch.device("cpu"), torch.float32, False)
    together = windows()[:2]
    for actual, expected in zip(encoder.encode(together), twin.encode(together), strict=True):
        assert torch.allclose(actual.audio, expected.audio, atol=1e-4)
        assert torch.equal(actual.onset_strength, expected.onset_strength)


def test_an_encoder_whose_graphs_cannot_be_trusted_runs_without_them_and_says_so(
    eager: WhisperEngine, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = AudioEncoder(eager._model, torch.device("cpu"), torch.float32, False, refuse)
    with torch.inference_mode():
        encoder.encode(windows()[:1])
        encoder.encode(windows()[:1])
    ((event, fields),) = events(caplog)
    assert (event, fields["reason"]) == ("graphs_refused", "operation not permitted when stream is capturing")


def test_graphs_of_logits_that_cannot_be_trusted_are_not_used_and_a_warning_says_so(
    eager: WhisperEngine, caplog: pytest.LogCaptureFixture
) -> None:
    def compute_other_logits(step: StepFunction) -> CapturedStep:
        replay, result = capture(step)
        return compute_something_else(step) if result.shape[1] > 1000 else (replay, result)

    sampled = replace(windows()[0], params=DecodingParams(num_hypotheses=2))
    engine = with_capture(eager, compute_other_logits)
    assert engine.has_graphs
    assert_equal(run(engine, [sampled]), run(with_capture(eager, None), [sampled]))
    ((event, fields),) = events(caplog)
    reason = "the graph of 2 rows computes something else than its computation"
    assert (event, fields["reason"]) == ("graphs_refused", reason)


def test_a_halved_engine_has_graphs_of_its_own(eager: WhisperEngine, expected: list[WindowResult]) -> None:
    engine = with_capture(eager, capture)
    run(engine, windows()[:1])
    old_graphs = engine._batch._graphs
    engine.halve()
    assert engine._batch._graphs not in (None, old_graphs)
    assert engine.max_batch_size == 1
    assert_equal(run(engine, windows()), expected)


def buffers(cache: KVCache) -> list[Tensor]:
    return [cache.k, cache.v, *(tensor for layer in range(len(cache.k)) for tensor in cache.cross_kv(layer))]


def test_a_slot_that_held_numbers_that_are_not_finite_is_clean_for_the_next_window(
    recorded: WhisperEngine, expected: list[WindowResult]
) -> None:
    for buffer in buffers(recorded._cache):
        buffer.fill_(torch.nan)
    assert_equal(run(recorded, windows()), expected)


@torch.inference_mode()
def test_a_window_that_moves_to_such_a_slot_is_not_touched(
    recorded: WhisperEngine, expected: list[WindowResult]
) -> None:
    first, second, third = windows()[:3]
    recorded.admit([first, second, third])
    results = dict(recorded.advance())
    for buffer in (recorded._cache.k[:, 0], recorded._cache.v[:, 0]):
        buffer.fill_(torch.nan)
    recorded.drop([first])
    while len(results) < 2:
        results |= dict(recorded.advance())
    assert_equal([results[second], results[third]], expected[1:3])


def test_a_shorter_audio_leaves_nothing_of_a_longer_one(tiny_folder: Path) -> None:
    engine = load_engine(tiny_folder, settings(batch_size=2, audio_context="short"))
    window = windows()[0]
    (expected,) = run(engine, [window])
    for buffer in buffers(engine._cache):
        buffer.fill_(torch.nan)
    longer = [Window(0, say(SENTENCES[0] + " " + SENTENCES[1]))]
    engine.admit(longer)
    engine.advance()  # makes the audio of all slots longer
    (result,) = run(engine, [window])
    assert tokens_of(result) == tokens_of(expected)


def refuse(step: StepFunction) -> CapturedStep:
    raise RuntimeError("operation not permitted when stream is capturing\nand more")


def compute_something_else(step: StepFunction) -> CapturedStep:
    replay, result = capture(step)

    def replay_wrongly() -> None:
        replay()
        result[1] -= 0.1

    return replay_wrongly, result


def find_nothing(step: StepFunction) -> CapturedStep:
    replay, result = capture(step)

    def replay_wrongly() -> None:
        replay()
        result[1] = torch.nan

    return replay_wrongly, result


@pytest.mark.parametrize(
    ("capture", "reason"),
    [
        (refuse, "operation not permitted when stream is capturing"),
        (compute_something_else, "the graph of 3 sequences computes something else than its step"),
        (find_nothing, "the graph of 3 sequences computes something else than its step"),
    ],
)
def test_an_engine_whose_graphs_cannot_be_trusted_runs_without_them_and_says_so(
    eager: WhisperEngine,
    expected: list[WindowResult],
    caplog: pytest.LogCaptureFixture,
    capture: Capture,
    reason: str,
) -> None:
    engine = with_capture(eager, capture)
    ((event, fields),) = events(caplog)
    assert (event, fields["reason"]) == ("graphs_refused", reason)
    assert engine._batch._graphs is None
    assert_equal(run(engine, windows()), expected)


def test_the_old_cache_is_gone_before_the_smaller_one_is_made(
    eager: WhisperEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = with_capture(eager, None, slots=4)
    old_cache = weakref.ref(engine._cache)
    old_caches: list[KVCache | None] = []
    allocate, forward = engine._allocate, type(engine._model.decoder).forward

    def fail_once(*args: object) -> Tensor:
        monkeypatch.setattr(type(engine._model.decoder), "forward", forward)
        raise torch.OutOfMemoryError("CUDA out of memory")

    def look_and_allocate(slots: int) -> None:
        old_caches.append(old_cache())
        allocate(slots)

    monkeypatch.setattr(engine, "_allocate", look_and_allocate)
    monkeypatch.setattr(type(engine._model.decoder), "forward", fail_once)
    monkeypatch.setattr("handler.whisper.engine.release_memory", lambda: None)
    gc.disable()  # what is freed is freed because nothing refers to it
    runner = Runner(engine)
    try:
        result = runner.submit("request", windows()[0]).result(60)
    finally:
        gc.enable()
        runner.close()
    assert old_caches == [None]
    assert engine.max_batch_size == 2
    assert result.segments


def limit_slots(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Leave memory for so many slots."""

    class SmallMemory(KVCache):
        def __init__(self, dims: object, slots: int, *args: object) -> None:
            if slots > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            super().__init__(dims, slots, *args)  # type: ignore[arg-type]

    monkeypatch.setattr("handler.whisper.workshop.KVCache", SmallMemory)


def test_a_batch_is_halved_until_it_fits(
    eager: WhisperEngine, expected: list[WindowResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = with_capture(eager, None, slots=16)
    limit_slots(monkeypatch, 3)
    engine.halve()
    assert (engine.max_batch_size, engine.encode_batch_size) == (2, 1)
    assert_equal(run(engine, windows()), expected)


def test_a_batch_that_does_not_fit_at_the_start_is_halved_until_it_does(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit_slots(monkeypatch, 4)
    engine = load_engine(tiny_folder, settings(batch_size=16))
    assert engine.max_batch_size == 4
    assert events(caplog) == [("batch_halved", {"rows": 4})]
    assert run(engine, windows()[:1])[0].segments


def test_windows_are_encoded_in_few_sizes(eager: WhisperEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = with_capture(eager, None, slots=8)
    engine._encoder.sizes = (1, 2, 4)
    sizes = list[int]()
    forward = engine._model.encoder.forward

    def record_size(mel: Tensor) -> Tensor:
        sizes.append(len(mel))
        return forward(mel)

    monkeypatch.setattr(engine._model.encoder, "forward", record_size)
    engine._encoder.encode([Window(0, say(text)) for text in (*LINES, SENTENCES[3], SENTENCES[4])])
    assert sizes == [4, 2, 1]
