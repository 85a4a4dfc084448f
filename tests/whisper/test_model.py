"""The network and the rules against slow twins: plain definitions, full recomputation, loops over rows."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from handler.whisper import dims as clock
from handler.whisper.attention import ATTENTIONS
from handler.whisper.dims import Dims
from handler.whisper.kv_cache import Cache
from handler.whisper.logit_rules import History, pick, suppression
from handler.whisper.model import LogMel, Whisper, mel_filters
from handler.whisper.repetition import loop_start
from handler.whisper.tokenizer import Specials
from tests.support.speech import FOX, say

CPU = torch.device("cpu")
SMALL = Dims(
    n_mels=80, n_audio_ctx=50, n_audio_state=64, n_audio_head=2, n_audio_layer=2,
    n_vocab=51_864, n_text_ctx=32, n_text_state=64, n_text_head=2, n_text_layer=3,
)  # fmt: skip


def random_model(dims: Dims = SMALL) -> Whisper:
    torch.manual_seed(0)
    model = Whisper(dims)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model.requires_grad_(False).eval()


def plain_log_mel(samples: np.ndarray, n_mels: int) -> np.ndarray:
    """The definition: reflect, taper, discrete Fourier transform by its matrix, filter, logarithm."""
    padded = np.pad(samples.astype(np.float64), clock.N_FFT // 2, mode="reflect")
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(clock.N_FFT) / clock.N_FFT)
    angles = -2j * np.pi * np.outer(np.arange(clock.N_FFT // 2 + 1), np.arange(clock.N_FFT)) / clock.N_FFT
    starts = np.arange(len(samples) // clock.HOP_LENGTH) * clock.HOP_LENGTH
    frames = np.stack([padded[at : at + clock.N_FFT] * taper for at in starts])
    power = np.abs(frames @ np.exp(angles).T) ** 2
    log = np.log10(np.maximum(mel_filters(n_mels).double().numpy() @ power.T, 1e-10))
    normalized: np.ndarray = (np.maximum(log, log.max() - 8) + 4) / 4
    return normalized


@pytest.mark.parametrize("n_mels", [80, 128])
def test_the_mel_equals_a_plain_definition(n_mels: int) -> None:
    samples = say(FOX)[:32_000]
    ours = LogMel(n_mels, CPU)(torch.from_numpy(samples)[None])[0].numpy()
    assert ours.shape == (n_mels, 200)
    assert np.abs(ours - plain_log_mel(samples, n_mels)).max() < 1e-4


@pytest.mark.parametrize("n_mels", [80, 128])
def test_the_mel_filters_are_those_that_whisper_was_trained_with(n_mels: int) -> None:
    from whisper.audio import mel_filters as theirs

    assert (mel_filters(n_mels) - theirs("cpu", n_mels)).abs().max() < 1e-7


@pytest.mark.parametrize("name", [name for name in ATTENTIONS if name != "flash_attention_2"])
def test_every_attention_equals_its_definition(name: str) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 700, 16) for _ in range(3))
    bias = torch.zeros(2, 1, 1, 700).masked_fill_(torch.rand(2, 1, 1, 700) < 0.3, -torch.inf)
    scores = q @ k.transpose(2, 3)
    assert torch.allclose(ATTENTIONS[name].whole(q, k, v), scores.softmax(-1) @ v, atol=1e-5)
    assert torch.allclose(ATTENTIONS[name].biased(q[:, :, :1], k, v, bias), (scores[:, :, :1] + bias).softmax(-1) @ v, atol=1e-5)


def test_decoding_with_the_cache_equals_full_recomputation_at_uneven_positions() -> None:
    model = random_model()
    audio = torch.randn(2, 50, 64)
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12]]
    following = [[21, 22, 23, 24], [31, 32, 33, 34]]
    cache = Cache(SMALL, 4, CPU, torch.float32)
    slots = slice(1, 3)
    model.decoder.write_cross_kv(audio, cache, slots)
    padded = torch.tensor([[*prompts[0], 0, 0], prompts[1]])
    model.decoder(padded, torch.arange(5).expand(2, 5), cache, slots, 5)
    stepped = []
    for step in range(4):
        tokens = torch.tensor([[row[step]] for row in following])
        positions = torch.tensor([[len(prompt) + step] for prompt in prompts])
        stepped.append(model.decoder(tokens, positions, cache, slots, 9)[:, 0])
    for row in range(2):
        whole = torch.tensor([prompts[row] + following[row]])
        fresh = Cache(SMALL, 1, CPU, torch.float32)
        model.decoder.write_cross_kv(audio[row : row + 1], fresh, slice(0, 1))
        full = model.decoder(whole, torch.arange(whole.shape[1])[None], fresh, slice(0, 1), whole.shape[1])[0, -4:]
        assert torch.allclose(torch.stack(stepped)[:, row], full, atol=1e-5)


def slow_pick(logits: torch.Tensor, tokens: list[int], ids: Specials, banned: set[int]) -> tuple[int, float]:
    """One row, one rule after the other, as the field writes them down."""
    scores = logits.clone()
    for token in {*banned, *range(ids.eot + 1, ids.timestamp_begin)} - {ids.eot}:
        scores[token] = -math.inf
    last = bool(tokens) and tokens[-1] >= ids.timestamp_begin
    before = len(tokens) < 2 or tokens[-2] >= ids.timestamp_begin
    if last and before:
        scores[ids.timestamp_begin :] = -math.inf
    elif last:
        scores[: ids.eot] = -math.inf
    stamps = [token for token in tokens if token >= ids.timestamp_begin]
    if stamps:
        scores[ids.timestamp_begin : stamps[-1] + (0 if last and not before else 1)] = -math.inf
    if not tokens:
        scores[: ids.timestamp_begin] = -math.inf
        scores[ids.timestamp_begin + 51 :] = -math.inf
    chances = scores.log_softmax(-1)
    if chances[ids.timestamp_begin :].logsumexp(-1) > chances[: ids.timestamp_begin].max():
        scores[: ids.timestamp_begin] = -math.inf
    token = int(scores.argmax())
    return token, float(scores.log_softmax(-1)[token])


def test_the_rules_over_the_batch_equal_the_rules_one_by_one() -> None:
    ids = Specials.of_vocab(51_864)
    torch.manual_seed(0)
    t = ids.timestamp_begin
    histories = [[], [t], [t, 5], [t, 5, t + 40], [t, 5, t + 40, t + 40], [t, 5, t + 40, t + 40, 7], [t + 3, 5, 6], [t, 5, t + 1500]]
    banned = {1, 2, 7, 220}
    bias = suppression(ids, banned, CPU)
    for favoured in (0, t, ids.eot):
        logits = torch.randn(len(histories), ids.vocab)
        logits[:, favoured : favoured + 1500] += 2.0
        history = History.empty(len(histories), ids, CPU)
        for row, tokens in enumerate(histories):
            part = history.rows(slice(row, row + 1))
            for earlier in tokens:
                part.append(torch.tensor([earlier]), ids)
        expected = [slow_pick(logits[row], tokens, ids, banned) for row, tokens in enumerate(histories)]
        choice = pick(logits.clone(), bias, history, ids)
        token, logprob = choice.token, choice.logprob
        assert token.tolist() == [pair[0] for pair in expected]
        assert logprob.tolist() == pytest.approx([pair[1] for pair in expected], abs=1e-4)


@pytest.mark.parametrize("n_vocab", [51_864, 51_865, 51_866])
def test_the_special_tokens_are_where_the_field_has_them(n_vocab: int) -> None:
    from whisper.tokenizer import get_tokenizer

    ids = Specials.of_vocab(n_vocab)
    theirs = get_tokenizer(ids.multilingual, num_languages=len(ids.languages))
    assert (ids.eot, ids.sot, ids.timestamp_begin) == (theirs.eot, theirs.sot, theirs.timestamp_begin)
    assert (ids.no_speech, ids.start_of_prev, ids.no_timestamps) == (theirs.no_speech, theirs.sot_prev, theirs.no_timestamps)
    assert (ids.translate, ids.transcribe) == (theirs.translate, theirs.transcribe)
    assert ids.language_id("de") == theirs.to_language_token("de")


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
    large = replace(SMALL, n_mels=128, n_audio_ctx=1500, n_audio_state=1280, n_audio_head=20, n_audio_layer=32, n_text_ctx=448)
    large = replace(large, n_vocab=51_866, n_text_state=1280, n_text_head=20, n_text_layer=32)
    for dims in (large, replace(large, n_text_layer=4), replace(large, n_text_layer=2)):  # large-v3, turbo, distil-large-v3
        with torch.device("meta"):
            model = Whisper(dims)
        assert sum(parameter.numel() for parameter in model.parameters()) > 7e8
