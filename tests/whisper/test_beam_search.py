"""Sampling and beam search over the running batch: against a slow twin, seeded, and the same whoever shares the batch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from handler.schema.window import DecodingParams, Window
from handler.whisper.engine import WhisperEngine
from handler.whisper.kv_cache import Cache
from handler.whisper.loading import load_engine
from handler.whisper.logit_rules import History, log_probabilities, pick
from tests.conftest import settings
from tests.support.speech import FOX, PANGRAM, SENTENCES, say
from tests.whisper.test_engine import LONG, run, text_of, tokens_of


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> WhisperEngine:
    return load_engine(tiny_folder, settings(batch_size=12))


def asked(text: str, **how: object) -> Window:
    return Window(0, say(text), params=replace(DecodingParams(), **how))  # type: ignore[arg-type]


def slow_beams(engine: WhisperEngine, window: Window, width: int) -> list[int]:
    """Beam search as the field writes it down: every text read from its beginning at every step, by hand, one by one."""
    ids, decoder = engine._tokenizer.specials, engine._model.decoder
    with torch.inference_mode():
        audio = engine._encode([window])[0].audio[None]
        beams: list[tuple[list[int], float]] = [([], 0.0)]
        finished: list[tuple[list[int], float]] = []
        while len(finished) < width:
            candidates = []
            for tokens, score in beams:
                cache = Cache(engine._model.dims, 1, torch.device("cpu"), torch.float32)
                cache.resize_audio(audio.shape[1], 0)
                decoder.write_cross_kv(audio, cache, slice(0, 1))
                read = torch.tensor([[ids.sot, *tokens]])
                hidden = decoder(read, torch.arange(read.shape[1])[None], cache, slice(0, 1), read.shape[1])
                history = History.empty(1, ids, torch.device("cpu"))
                for token in tokens:
                    history.append(torch.tensor([token]), ids)
                logits = decoder.logits(hidden[:, -1])
                chances = log_probabilities(logits, pick(logits, engine._batch._step._bias, history, ids), torch.tensor([0]), ids)[0]
                best, at = chances.topk(width + 1)
                candidates += [([*tokens, int(token)], score + float(chance)) for chance, token in zip(best, at, strict=True)]
            beams = []
            for tokens, score in sorted(candidates, key=lambda pair: -pair[1]):
                (finished if tokens[-1] == ids.eot else beams).append((tokens, score))
                if len(beams) == width:
                    break
    tokens, _ = max(finished, key=lambda pair: pair[1] / len(pair[0]))
    return [token for token in tokens if token < ids.eot]


@pytest.mark.parametrize("text", [FOX, SENTENCES[0]])
@pytest.mark.parametrize("width", [2, 5])
def test_beam_search_over_the_batch_equals_a_slow_one(tiny: WhisperEngine, text: str, width: int) -> None:
    window = asked(text, num_hypotheses=width)
    assert tokens_of(run(tiny, [window])[0]) == slow_beams(tiny, asked(text), width)


def test_beams_find_texts_at_least_as_likely_as_the_greedy_one(tiny: WhisperEngine) -> None:
    for text in SENTENCES:
        (greedy,), (beams,) = run(tiny, [asked(text)]), run(tiny, [asked(text, num_hypotheses=5)])
        assert greedy.evidence is not None
        assert beams.evidence is not None
        assert beams.evidence.avg_logprob >= greedy.evidence.avg_logprob - 1e-4


def test_windows_decode_the_same_among_others_of_any_width(tiny: WhisperEngine) -> None:
    hows: list[dict[str, object]] = [
        {"num_hypotheses": 1},
        {"num_hypotheses": 3},
        {"num_hypotheses": 2, "temperature": 0.6},
        {"num_hypotheses": 5},
        {"num_hypotheses": 1, "temperature": 1.0},
        {"num_hypotheses": 3},
    ]
    texts = [LONG, FOX, PANGRAM, SENTENCES[1], SENTENCES[2], LONG]
    windows = [asked(text, **how) for text, how in zip(texts, hows, strict=True)]
    encode_batch_size = [tokens_of(result) for result in run(tiny, windows)]
    assert encode_batch_size == [tokens_of(run(tiny, [window])[0]) for window in windows]
    assert tiny.free() == 12


def test_sampling_is_seeded_by_the_window(tiny: WhisperEngine) -> None:
    window = asked(LONG, temperature=1.0)
    once, again = (tokens_of(run(tiny, [replace(window)])[0]) for _ in range(2))
    assert once == again
    assert once != tokens_of(run(tiny, [replace(window, start=16_000)])[0])


def test_the_best_of_several_samples_is_the_likeliest(tiny: WhisperEngine) -> None:
    (one,), (five,) = (run(tiny, [asked(LONG, temperature=1.0, num_hypotheses=rows)]) for rows in (1, 5))
    assert one.evidence is not None
    assert five.evidence is not None
    assert five.evidence.avg_logprob >= one.evidence.avg_logprob
    assert five.evidence.temperature == 1.0


def test_beams_that_break_off_leave_their_best_open_text(tiny: WhisperEngine, tiny_folder: Path) -> None:
    cramped = load_engine(tiny_folder, settings(batch_size=3))
    cramped._cache.context = 20
    (result,) = run(cramped, [asked(LONG, num_hypotheses=3)])
    assert result.evidence is not None
    assert result.evidence.exhausted
    assert text_of(run(tiny, [asked(LONG, num_hypotheses=3)])[0]).startswith(text_of(result)[:20])


def test_a_window_of_several_rows_that_is_dropped_frees_all_of_them(tiny: WhisperEngine) -> None:
    wide, other = asked(LONG, num_hypotheses=5), asked(FOX)
    tiny.admit([wide, other])
    assert tiny.free() == 6
    tiny.drop([wide])
    assert tiny.free() == 11
    done: dict[Window, object] = {}
    while not done:
        done = dict(tiny.advance())
    assert list(done) == [other]


def test_a_window_that_comes_back_is_not_encoded_again(tiny: WhisperEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = list[int]()
    forward = tiny._model.encoder.forward

    def counted(mel: torch.Tensor) -> torch.Tensor:
        encoded.append(mel.shape[0])
        return forward(mel)

    monkeypatch.setattr(tiny._model.encoder, "forward", counted)
    window = Window(0, say(FOX).copy())
    first, again = run(tiny, [window])[0], run(tiny, [window.with_params(num_hypotheses=2)])[0]
    assert text_of(first) == text_of(again)
    assert encoded == [1]
