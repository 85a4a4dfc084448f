"""The network and the decoding rules against slow twins: definitions, full recomputation, loops over sequences."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from handler.tokens.repetition import loop_start
from handler.whisper.attention import ATTENTION_KERNELS, SharedAudio
from handler.whisper.decoding_state import DecodingState
from handler.whisper.dims import HOP_LENGTH, N_FFT, Dims
from handler.whisper.kv_cache import KVCache
from handler.whisper.logit_rules import pick, suppression
from handler.whisper.model import LogMel, Whisper, mel_filters
from handler.whisper.tokenizer import Specials
from tests.support.speech import FOX, say

CPU = torch.device("cpu")
SMALL = Dims(
    n_mels=80,
    n_audio_ctx=50,
    n_audio_state=64,
    n_audio_head=2,
    n_audio_layer=2,
    n_vocab=51_864,
    n_text_ctx=32,
    n_text_state=64,
    n_text_head=2,
    n_text_layer=3,
)


def random_model(dims: Dims = SMALL) -> Whisper:
    torch.manual_seed(0)
    model = Whisper(dims)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model.requires_grad_(False).eval()


def plain_log_mel(samples: np.ndarray, n_mels: int) -> np.ndarray:
    """Compute a log-mel spectrogram by its definition: reflect, window, DFT by its matrix, filter, logarithm."""
    padded = np.pad(samples.astype(np.float64), N_FFT // 2, mode="reflect")
    hann_window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    angles = -2j * np.pi * np.outer(np.arange(N_FFT // 2 + 1), np.arange(N_FFT)) / N_FFT
    starts = np.arange(len(samples) // HOP_LENGTH) * HOP_LENGTH
    frames = np.stack([padded[start : start + N_FFT] * hann_window for start in starts])
    power = np.abs(frames @ np.exp(angles).T) ** 2
    log_mel = np.log10(np.maximum(mel_filters(n_mels).double().numpy() @ power.T, 1e-10))
    normalized: np.ndarray = (np.maximum(log_mel, log_mel.max() - 8) + 4) / 4
    return normalized


@pytest.mark.parametrize("n_mels", [80, 128])
def test_the_mel_equals_a_plain_definition(n_mels: int) -> None:
    samples = say(FOX)[:32_000]
    log_mel = LogMel(n_mels, CPU)(torch.from_numpy(samples)[None])[0].numpy()
    assert log_mel.shape == (n_mels, 200)
    assert np.abs(log_mel - plain_log_mel(samples, n_mels)).max() < 1e-4


@pytest.mark.parametrize("n_mels", [80, 128])
def test_the_mel_filters_are_those_that_whisper_was_trained_with(n_mels: int) -> None:
    from whisper.audio import mel_filters as openai_mel_filters

    assert (mel_filters(n_mels) - openai_mel_filters("cpu", n_mels)).abs().max() < 1e-7


@pytest.mark.parametrize("name", [name for name in ATTENTION_KERNELS if name != "flash_attention_2"])
def test_every_attention_equals_its_definition(name: str) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 700, 16) for _ in range(3))
    mask = torch.zeros(2, 1, 1, 700).masked_fill_(torch.rand(2, 1, 1, 700) < 0.3, -torch.inf)
    scores = q @ k.transpose(2, 3)
    kernels = ATTENTION_KERNELS[name]
    assert torch.allclose(kernels.unmasked(q, k, v), scores.softmax(-1) @ v, atol=1e-5)
    expected = (scores[:, :, :1] + mask).softmax(-1) @ v
    assert torch.allclose(kernels.masked(q[:, :, :1], k, v, mask), expected, atol=1e-5)


def test_decoding_with_the_cache_equals_full_recomputation_at_uneven_positions() -> None:
    model = random_model()
    audio = torch.randn(2, 50, 64)
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12]]
    continuations = [[21, 22, 23, 24], [31, 32, 33, 34]]
    cache = KVCache(SMALL, 4, CPU, torch.float32)
    slots = slice(1, 3)
    cache.write_audio(slots, model.decoder.cross_kv(audio))
    padded = torch.tensor([[*prompts[0], 0, 0], prompts[1]])
    model.decoder(padded, torch.arange(5).expand(2, 5), cache, slots, 5, slots)
    stepped = []
    for step in range(4):
        tokens = torch.tensor([[row[step]] for row in continuations])
        positions = torch.tensor([[len(prompt) + step] for prompt in prompts])
        stepped.append(model.decoder(tokens, positions, cache, slots, 9, slots)[:, 0])
    for row in range(2):
        tokens = torch.tensor([prompts[row] + continuations[row]])
        length = tokens.shape[1]
        empty_cache = KVCache(SMALL, 1, CPU, torch.float32)
        empty_cache.write_audio(slice(0, 1), model.decoder.cross_kv(audio[row : row + 1]))
        recomputed = model.decoder(tokens, torch.arange(length)[None], empty_cache, slice(0, 1), length, slice(0, 1))[
            0, -4:
        ]
        assert torch.allclose(torch.stack(stepped)[:, row], recomputed, atol=1e-5)


def test_sequences_that_share_an_audio_attend_to_it_as_if_each_had_a_copy() -> None:
    model = random_model()
    audio = torch.randn(3, 50, 64)
    owners = [2, 0, 2, 1, 2, 0]  # the audio of each sequence
    shared = SharedAudio(slice(1, 4), torch.tensor(owners), torch.tensor([0, 0, 1, 0, 2, 1]), 4)
    cache, copies = KVCache(SMALL, 7, CPU, torch.float32), KVCache(SMALL, 7, CPU, torch.float32)
    cache.write_audio(slice(1, 4), model.decoder.cross_kv(audio))
    copies.write_audio(slice(0, 6), model.decoder.cross_kv(audio[owners]))
    tokens, positions = torch.arange(18).view(6, 3) + 5, torch.arange(3).expand(6, 3)
    slots = slice(0, 6)
    together = model.decoder(tokens, positions, cache, slots, 3, shared)
    assert torch.allclose(together, model.decoder(tokens, positions, copies, slots, 3, slots), atol=1e-5)


def slow_pick(logits: torch.Tensor, tokens: list[int], ids: Specials, suppressed: set[int]) -> tuple[int, float]:
    """Pick the next token of one sequence, one rule after the other, as openai/whisper has them."""
    scores = logits.clone()
    for token in {*suppressed, *range(ids.eot + 1, ids.timestamp_begin)} - {ids.eot}:
        scores[token] = -math.inf
    last_was_timestamp = bool(tokens) and tokens[-1] >= ids.timestamp_begin
    penultimate_was_timestamp = len(tokens) < 2 or tokens[-2] >= ids.timestamp_begin
    if last_was_timestamp and penultimate_was_timestamp:
        scores[ids.timestamp_begin :] = -math.inf
    elif last_was_timestamp:
        scores[: ids.eot] = -math.inf
    timestamps = [token for token in tokens if token >= ids.timestamp_begin]
    if timestamps:
        first_allowed = timestamps[-1] if last_was_timestamp and not penultimate_was_timestamp else timestamps[-1] + 1
        scores[ids.timestamp_begin : first_allowed] = -math.inf
    if not tokens:
        scores[: ids.timestamp_begin] = -math.inf
        scores[ids.timestamp_begin + 51 :] = -math.inf
    logprobs = scores.log_softmax(-1)
    if logprobs[ids.timestamp_begin :].logsumexp(-1) > logprobs[: ids.timestamp_begin].max():
        scores[: ids.timestamp_begin] = -math.inf
    token = int(scores.argmax())
    return token, float(scores.log_softmax(-1)[token])


def test_the_rules_over_the_batch_equal_the_rules_one_by_one() -> None:
    ids = Specials.of_vocab(51_864)
    torch.manual_seed(0)
    t = ids.timestamp_begin
    histories = [
        [],
        [t],
        [t, 5],
        [t, 5, t + 40],
        [t, 5, t + 40, t + 40],
        [t, 5, t + 40, t + 40, 7],
        [t + 3, 5, 6],
        [t, 5, t + 1500],
    ]
    suppressed = {1, 2, 7, 220}
    bias = suppression(ids, suppressed, CPU)
    for favoured in (0, t, ids.eot):
        logits = torch.randn(len(histories), ids.vocab)
        logits[:, favoured : favoured + 1500] += 2.0
        history = DecodingState(len(histories), ids, CPU).history
        for row, tokens in enumerate(histories):
            row_history = history.rows(slice(row, row + 1))
            for token in tokens:
                row_history.append(torch.tensor([token]), ids)
        expected = [slow_pick(logits[row], tokens, ids, suppressed) for row, tokens in enumerate(histories)]
        choice = pick(logits.clone(), bias, history, ids)
        assert choice.token.tolist() == [token for token, _ in expected]
        assert choice.logprob.tolist() == pytest.approx([logprob for _, logprob in expected], abs=1e-4)


@pytest.mark.parametrize("n_vocab", [51_864, 51_865, 51_866])
def test_the_special_tokens_are_where_the_field_has_them(n_vocab: int) -> None:
    from whisper.tokenizer import get_tokenizer

    ids = Specials.of_vocab(n_vocab)
    openai = get_tokenizer(ids.multilingual, num_languages=len(ids.languages))
    assert (ids.eot, ids.sot, ids.timestamp_begin) == (openai.eot, openai.sot, openai.timestamp_begin)
    assert (ids.no_speech, ids.start_of_prev, ids.no_timestamps) == (
        openai.no_speech,
        openai.sot_prev,
        openai.no_timestamps,
    )
    assert (ids.translate, ids.transcribe) == (openai.translate, openai.transcribe)
    assert ids.language_id("de") == openai.to_language_token("de")


@pytest.mark.parametrize(
    ("tokens", "start"),
    [
        ([1, 2, 3, *[7] * 30], 4),
        ([1, *[4, 5, 6] * 9], 4),
        (list(range(200)), None),
        ([1, 2, 3, 1, 2, 3], None),
        ([*[7] * 30, 1], None),
    ],
)
def test_a_loop_is_found_at_the_end_only(tokens: list[int], start: int | None) -> None:
    assert loop_start(tokens) == start


def test_every_published_size_builds() -> None:
    large_v3 = Dims(128, 1500, 1280, 20, 32, 51_866, 448, 1280, 20, 32)
    turbo, distil_large_v3 = replace(large_v3, n_text_layer=4), replace(large_v3, n_text_layer=2)
    for dims in (large_v3, turbo, distil_large_v3):
        with torch.device("meta"):
            model = Whisper(dims)
        assert sum(parameter.numel() for parameter in model.parameters()) > 7e8
