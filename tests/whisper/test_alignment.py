"""Word times: warping against a slow twin, words of every script, onsets that a synthesiser reports."""

import base64
import gzip
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from handler.schema.options import Options
from handler.schema.transcript import Transcript, Word
from handler.schema.window import SAMPLE_RATE
from handler.tokens.word_splitting import split_words
from handler.transcription.pipeline import Pipeline
from handler.transcription.word_edits import normalize_word
from handler.whisper.alignment import alignment_costs, dtw, median, onset_lag, peak_positions, place_words
from handler.whisper.alignment_heads import alignment_heads
from handler.whisper.alignment_queries import AlignmentQueries
from handler.whisper.dims import Dims
from handler.whisper.tokenizer import Tokenizer
from tests.support.asking import upload
from tests.support.espeak import STORY, say_timed
from tests.support.speech import PANGRAM, say, silence, wav

LEFT, DIAGONAL, ABOVE = range(3)  # the cell that a path comes from


def slow_dtw(costs: np.ndarray) -> list[int]:
    """Dynamic time warping cell by cell: the column at which each row of the cheapest path begins."""
    rows, columns = costs.shape
    total = np.full((rows, columns), np.inf)
    origin = np.zeros((rows, columns), int)
    for i in range(rows):
        for j in range(columns):
            if i == j == 0:
                total[i, j] = costs[i, j]
                continue
            origin_costs = [
                total[i, j - 1] if j else np.inf,
                total[i - 1, j - 1] if i and j else np.inf,
                total[i - 1, j] if i else np.inf,
            ]
            origin[i, j] = int(np.argmin(origin_costs))
            total[i, j] = costs[i, j] + min(origin_costs)
    starts = [0] * rows
    i, j = rows - 1, columns - 1
    while i or j:
        step = origin[i, j]
        if step != LEFT:
            starts[i] = j
            i -= 1
        if step != ABOVE:
            j -= 1
    return starts


@pytest.mark.parametrize(("tokens", "positions"), [(9, 40), (4, 33), (1, 7), (12, 12)])
def test_warping_equals_warping_cell_by_cell(tokens: int, positions: int) -> None:
    costs = np.random.default_rng(tokens).standard_normal((tokens, positions)).astype(np.float32)
    assert dtw(costs).tolist() == [*slow_dtw(costs), positions]


def test_a_token_is_heard_best_where_it_costs_least_between_its_beginning_and_the_next() -> None:
    costs = np.array([[0.0, -1.0, 0.0, -9.0], [0.0, -5.0, -2.0, -1.0]], np.float32)
    assert peak_positions(costs, np.array([0, 2, 4])) == [1, 2]


def test_the_running_median_is_the_one_that_sorting_gives() -> None:
    x = np.random.default_rng(0).random((3, 50)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (3, 3)), mode="reflect")
    shifted = [padded[:, offset : offset + 50] for offset in range(7)]
    assert (median(x) == np.median(np.stack(shifted), axis=0)).all()
    assert (alignment_costs(x) == -median(x)).all()
    assert (median(x[:, :3]) == x[:, :3]).all()


def test_attention_is_read_only_where_there_is_audio() -> None:
    torch.manual_seed(0)
    heads, cpu = [(0, 1), (2, 0), (2, 2)], torch.device("cpu")
    queries = AlignmentQueries(heads, 3, 20, 8, cpu, torch.float32)
    rows, positions = torch.arange(2)[:, None], torch.tensor([[4, 5, 6], [7, 8, 9]])
    q, keys = torch.randn(3, 2, 4, 3, 8), torch.randn(3, 4, 30, 8)  # of each layer
    for layer in range(3):
        queries.keep(layer, slice(1, 3), rows, positions, q[layer])
    weights = queries.weights(2, torch.tensor([7, 9]), lambda layers, heads: keys[layers, heads], 11)
    expected = torch.stack(
        [(q[layer, 1, head, [0, 2]] @ keys[layer, head].T)[:, :11].softmax(-1) for layer, head in heads]
    )
    assert torch.allclose(weights, expected.mean(0), atol=1e-6)
    assert queries.num_layers == 3


@pytest.mark.parametrize("lag_s", [-0.08, 0.0, 0.1])
def test_words_that_begin_all_too_late_or_too_early_are_found_out(lag_s: float) -> None:
    rng = np.random.default_rng(1)
    onsets = np.cumsum(rng.integers(20, 60, 60))
    onset_strength = rng.random(3000).astype(np.float32)
    onset_strength[onsets + 3] += 3.0
    assert onset_lag(onsets / 100 + lag_s, onset_strength) == pytest.approx(lag_s, abs=0.03)


def test_one_word_tells_nothing_about_all() -> None:
    onset_strength = np.random.default_rng(1).random(3000).astype(np.float32)
    assert abs(onset_lag(np.array([5.0]), onset_strength)) <= 0.08
    assert onset_lag(np.zeros(0), onset_strength) == 0.0


def test_words_are_in_order_inside_the_window_and_not_over_silence() -> None:
    times = [0.0, 0.5, 1.0, 3.9, 4.5, 6.0], [0.3, 0.8, 1.1, 4.1, 4.6]  # starts, peaks
    flat = np.ones(600, np.float32)
    spans = place_words([(0, 1), (1, 2), (2, 3), (3, 5)], *times, flat, [(0.2, 1.4), (4.0, 5.0)], 5.5)
    assert spans == [(0.2, 0.5), (0.5, 1.0), (1.0, 1.4), (4.0, 5.0)]
    nine_words = [(i, i + 1) for i in range(9)]  # more tokens than have times
    assert all(start <= end for start, end in place_words(nine_words, *times, flat, [], 5.5))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("tiny.en", (4, 6, 80)),
        ("base", (6, 8, 80)),
        ("small", (12, 12, 80)),
        ("medium.en", (24, 16, 80)),
        ("large-v2", (32, 20, 80)),
        ("large-v3", (32, 20, 128)),
        ("large-v3-turbo", (4, 20, 128)),
    ],
)
def test_the_alignment_heads_of_published_checkpoints_are_those_of_the_field(
    name: str, shape: tuple[int, int, int]
) -> None:
    import whisper

    layers, heads, mels = shape
    base_dims = Dims(80, 1500, 384, 6, 4, 51_865, 448, 384, 6, 4)
    dims = replace(base_dims, n_text_layer=layers, n_text_head=heads, n_mels=mels)
    is_alignment_head = gzip.decompress(base64.b85decode(whisper._ALIGNMENT_HEADS[name]))
    pairs = np.argwhere(np.frombuffer(is_alignment_head, dtype=bool).reshape(layers, heads))
    expected = tuple((int(layer), int(head)) for layer, head in pairs)
    assert alignment_heads(dims, multilingual=not name.endswith(".en")) == expected


def test_a_shape_that_is_not_published_has_the_heads_of_its_upper_layers() -> None:
    dims = Dims(80, 1500, 384, 6, 4, 51_865, 448, 384, 2, 2)
    assert alignment_heads(dims, multilingual=True) == ((1, 0), (1, 1))
    fewer_heads_than_tiny = replace(dims, n_text_layer=4)
    assert alignment_heads(fewer_heads_than_tiny, multilingual=True) == ((2, 0), (2, 1), (3, 0), (3, 1))


@pytest.fixture(scope="module")
def multilingual(base_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(base_folder, 51_865)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" Hello, world! It's 5.30 p.m.", [" Hello,", " world!", " It's", " 5.30", " p.m."]),
        (' He said: "Yes (twice)."', [" He", " said:", ' "Yes', ' (twice)."']),
        (" L'été, c'est déjà fini…", [" L'été,", " c'est", " déjà", " fini…"]),
        (" ¿Qué hora es? ¡Ya!", [" ¿Qué", " hora", " es?", " ¡Ya!"]),
        (" Привет, мир.", [" Привет,", " мир."]),
        ("你好，世界。", ["你", "好，", "世", "界。"]),
        ("今日は「東京」へ行く。", ["今", "日", "は", "「東", "京」", "へ", "行", "く。"]),
        ("GPT 4 模型", ["GPT", " 4", " 模", "型"]),
        (" नमस्ते दुनिया", [" नमस्ते", " दुनिया"]),
        (" 😀 ok", [" 😀", " ok"]),
        (" - Well - no…", [" - Well -", " no…"]),
    ],
)
def test_words_of_every_script_keep_their_punctuation(multilingual: Tokenizer, text: str, words: list[str]) -> None:
    split = split_words(multilingual.pieces(multilingual.encode(text)))
    assert [word.text for word in split] == words
    edges = list(chain.from_iterable((word.start, word.end) for word in split))
    assert edges[0] == 0
    assert edges[1:-1:2] == pytest.approx(edges[2::2])
    assert edges[-1] == len(multilingual.encode(text))
    assert b"".join(map(multilingual.token_bytes, multilingual.encode(text))).decode() == text


def words_of(transcript: Transcript) -> list[Word]:
    return list(chain.from_iterable(segment.words for segment in transcript.segments))


def are_plausible(words: list[Word], duration: float) -> bool:
    is_ordered = all(first.end <= second.start for first, second in pairwise(words))
    return is_ordered and all(0 <= word.start <= word.end <= duration and 0 <= word.probability <= 1 for word in words)


async def test_word_onsets_are_those_that_the_synthesiser_reports(pipeline: Pipeline) -> None:
    samples, spoken = say_timed(" ".join(STORY))
    transcript = await pipeline.transcribe(upload(wav(samples)), Options(timestamps="word"))
    words = words_of(transcript)
    assert are_plausible(words, transcript.duration)
    expected = [normalize_word(Word(0, 0, word, 0)) for word, _ in spoken]
    matcher = SequenceMatcher(None, expected, [normalize_word(word) for word in words], autojunk=False)
    errors: list[float] = []
    for match in matcher.get_matching_blocks():
        for i in range(match.size):
            errors.append(abs(words[match.b + i].start - spoken[match.a + i][1]))
    assert len(errors) >= 300
    assert np.median(errors) <= 0.05
    assert np.quantile(errors, 0.9) <= 0.12


async def test_no_word_lies_over_silence(pipeline: Pipeline) -> None:
    first, second = say("The number is 42."), say(PANGRAM)
    samples = np.concatenate([silence(2), first, silence(2), second, silence(2)])
    transcript = await pipeline.transcribe(upload(wav(samples)), Options(timestamps="word"))
    words = words_of(transcript)
    assert any("42" in word.text for word in words)
    assert are_plausible(words, transcript.duration)
    quiet = [(0, 2), (2 + len(first) / SAMPLE_RATE, 4 + len(first) / SAMPLE_RATE)]
    for word in words:
        assert all(min(word.end, end) - max(word.start, start) <= 0.1 for start, end in quiet), word
    for segment in transcript.segments:
        assert (segment.start, segment.end) == (segment.words[0].start, segment.words[-1].end)
        assert "".join(word.text for word in segment.words) == segment.text
