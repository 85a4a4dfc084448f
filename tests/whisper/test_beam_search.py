"""Sampling and beam search in the running batch: equal to a slow twin, seeded, and independent of the other windows."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from handler.schema.window import DecodingParams, Window
from handler.whisper.decoding_state import DecodingState
from handler.whisper.engine import WhisperEngine
from handler.whisper.kv_cache import KVCache
from handler.whisper.loading import load_engine
from handler.whisper.logit_rules import log_probabilities, pick
from handler.whisper.sampling import sample
from handler.whisper.sequences import ActiveSequence, DecodeTask
from tests.conftest import settings
from tests.support.speech import FOX, PANGRAM, SENTENCES, say
from tests.whisper.test_engine import LONG, run, text_of, tokens_of


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> WhisperEngine:
    engine = load_engine(tiny_folder, settings(batch_size=12))
    engine._sharing._has_background = False  # windows are prepared at once, however busy the machine is
    return engine


def window_of(text: str, **params: object) -> Window:
    return Window(0, say(text), params=replace(DecodingParams(), **params))  # type: ignore[arg-type]


def slow_logprobs(engine: WhisperEngine, audio: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """The log-probability of every token after `tokens`, which are decoded from their beginning. [n_vocab]"""
    ids, decoder = engine._tokenizer.specials, engine._model.decoder
    cache = KVCache(engine._model.dims, 1, torch.device("cpu"), torch.float32)
    cache.resize_audio(audio.shape[1], 0)
    cache.write_audio(slice(0, 1), decoder.cross_kv(audio))
    prefix = torch.tensor([[ids.sot, *tokens]])
    hidden = decoder(prefix, torch.arange(prefix.shape[1])[None], cache, slice(0, 1), prefix.shape[1], slice(0, 1))
    history = DecodingState(1, ids, torch.device("cpu")).history
    for token in tokens:
        history.append(torch.tensor([token]), ids)
    logits = decoder.logits(hidden[:, -1])
    choice = pick(logits, engine._batch._step._bias, history, ids)
    return log_probabilities(logits, choice, torch.tensor([0]), ids)[0]


def slow_beams(engine: WhisperEngine, window: Window, width: int) -> list[int]:
    """Beam search as the field writes it down: every text decoded from its beginning at every step, one by one."""
    eot = engine._tokenizer.specials.eot
    with torch.inference_mode():
        audio = engine._encoder.encode([window])[0].audio[None]
        beams: list[tuple[list[int], float]] = [([], 0.0)]
        finished: list[tuple[list[int], float]] = []
        while len(finished) < width:
            candidates = []
            for tokens, score in beams:
                best, best_tokens = slow_logprobs(engine, audio, tokens).topk(width + 1)
                for logprob, token in zip(best, best_tokens, strict=True):
                    candidates.append(([*tokens, int(token)], score + float(logprob)))
            beams = []
            for tokens, score in sorted(candidates, key=lambda pair: -pair[1]):
                (finished if tokens[-1] == eot else beams).append((tokens, score))
                if len(beams) == width:
                    break
    tokens, _ = max(finished, key=lambda pair: pair[1] / len(pair[0]))
    return [token for token in tokens if token < eot]


@pytest.mark.parametrize("text", [FOX, SENTENCES[0]])
@pytest.mark.parametrize("width", [2, 5])
def test_beam_search_over_the_batch_equals_a_slow_one(tiny: WhisperEngine, text: str, width: int) -> None:
    window = window_of(text, num_hypotheses=width)
    assert tokens_of(run(tiny, [window])[0]) == slow_beams(tiny, window_of(text), width)


def test_beams_find_texts_at_least_as_likely_as_the_greedy_one(tiny: WhisperEngine) -> None:
    for text in SENTENCES:
        (greedy,), (beams,) = run(tiny, [window_of(text)]), run(tiny, [window_of(text, num_hypotheses=5)])
        assert greedy.evidence is not None
        assert beams.evidence is not None
        assert beams.evidence.avg_logprob >= greedy.evidence.avg_logprob - 1e-4


def test_windows_decode_the_same_among_others_of_any_width(tiny: WhisperEngine) -> None:
    param_sets: list[dict[str, object]] = [
        {"num_hypotheses": 1},
        {"num_hypotheses": 3},
        {"num_hypotheses": 2, "temperature": 0.6},
        {"num_hypotheses": 5},
        {"num_hypotheses": 1, "temperature": 1.0},
        {"num_hypotheses": 3},
    ]
    texts = [LONG, FOX, PANGRAM, SENTENCES[1], SENTENCES[2], LONG]
    windows = [window_of(text, **params) for text, params in zip(texts, param_sets, strict=True)]
    batched = [tokens_of(result) for result in run(tiny, windows)]
    assert batched == [tokens_of(run(tiny, [window])[0]) for window in windows]
    assert tiny.free() == 12


def test_sampling_is_seeded_by_the_window(tiny: WhisperEngine) -> None:
    window = window_of(LONG, temperature=1.0)
    first, second = (tokens_of(run(tiny, [replace(window)])[0]) for _ in range(2))
    assert first == second
    assert first != tokens_of(run(tiny, [replace(window, start=16_000)])[0])


@torch.inference_mode()
def test_tokens_are_drawn_as_often_as_their_temperature_makes_them_likely(
    tiny: WhisperEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, temperature = tiny._tokenizer.specials, 0.7
    window = window_of(FOX, temperature=temperature, num_hypotheses=12)
    task = DecodeTask(window, (ids.sot,), "en", {}, torch.zeros(0), 1500, 0)
    sequences = [ActiveSequence(task, random.Random(seed)) for seed in range(12)]
    logits = torch.full((1, ids.vocab), -30.0)
    logits[0, 500:504] = torch.tensor([3.0, 2.0, 1.0, 2.5])
    history = DecodingState(12, ids, torch.device("cpu")).history
    history.append(torch.full((12,), ids.timestamp_begin), ids)
    counts: Counter[int] = Counter()
    for _ in range(300):
        chosen = logits.repeat(12, 1)
        choice = pick(chosen, torch.zeros(ids.vocab), history, ids)
        sample(chosen, choice, sequences, ids)
        counts.update(choice.token.tolist())
        assert choice.logprob.tolist() == pytest.approx(logits.log_softmax(-1)[0, choice.token].tolist(), abs=1e-3)
    for token, share in zip(range(500, 504), (logits[0, 500:504] / temperature).softmax(-1).tolist(), strict=True):
        assert counts[token] / counts.total() == pytest.approx(share, abs=0.03)


def test_the_best_of_several_samples_is_the_likeliest(tiny: WhisperEngine) -> None:
    (single,) = run(tiny, [window_of(LONG, temperature=1.0, num_hypotheses=1)])
    (best_of_five,) = run(tiny, [window_of(LONG, temperature=1.0, num_hypotheses=5)])
    assert single.evidence is not None
    assert best_of_five.evidence is not None
    assert best_of_five.evidence.avg_logprob >= single.evidence.avg_logprob - 1e-4
    assert best_of_five.evidence.temperature == 1.0


def test_beams_that_break_off_leave_their_best_open_text(tiny: WhisperEngine, tiny_folder: Path) -> None:
    cramped = load_engine(tiny_folder, settings(batch_size=3))
    cramped._cache.context = 20
    (result,) = run(cramped, [window_of(LONG, num_hypotheses=3)])
    assert result.evidence is not None
    assert result.evidence.exhausted
    assert text_of(run(tiny, [window_of(LONG, num_hypotheses=3)])[0]).startswith(text_of(result)[:20])


def test_a_window_of_several_rows_that_is_dropped_frees_all_of_them(tiny: WhisperEngine) -> None:
    wide, narrow = window_of(LONG, num_hypotheses=5), window_of(FOX)
    free = tiny.free()
    tiny.admit([wide, narrow])
    assert tiny.free() == free - 6
    tiny.drop([wide])
    assert tiny.free() == free - 1
    results: dict[Window, object] = {}
    while not results:
        results = dict(tiny.advance())
    assert list(results) == [narrow]


def test_a_window_that_comes_back_is_not_encoded_again(tiny: WhisperEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_sizes = list[int]()
    forward = tiny._model.encoder.forward

    def recording_forward(mel: torch.Tensor) -> torch.Tensor:
        batch_sizes.append(mel.shape[0])
        return forward(mel)

    monkeypatch.setattr(tiny._model.encoder, "forward", recording_forward)
    window = Window(0, say(FOX).copy())
    (greedy,) = run(tiny, [window])
    (beams,) = run(tiny, [window.with_params(num_hypotheses=2)])
    assert text_of(greedy) == text_of(beams)
    assert batch_sizes == [1]
