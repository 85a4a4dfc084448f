"""The KV cache against slow twins that copy one slot after the other, and CUDA graphs by their twin on the CPU."""

import pytest
import torch
from torch import Tensor

from handler.whisper.cuda_graphs import CapturedStep, CudaGraphs, StepFunction, sizes_up_to
from handler.whisper.dims import Dims
from handler.whisper.kv_cache import TEXT_LENGTH_STEP, KVCache
from tests.support.replay import capture

CPU = torch.device("cpu")
TINY = Dims(
    n_mels=80,
    n_audio_ctx=10,
    n_audio_state=6,
    n_audio_head=2,
    n_audio_layer=1,
    n_vocab=51_864,
    n_text_ctx=40,
    n_text_state=6,
    n_text_head=2,
    n_text_layer=3,
)
HEADS, DEPTH = TINY.n_text_head, TINY.n_text_state // TINY.n_text_head
SLOTS = 5


def filled_cache(audio_length: int = TINY.n_audio_ctx) -> KVCache:
    """Return a cache in which every text position and every audio position holds another value."""
    torch.manual_seed(0)
    cache = KVCache(TINY, SLOTS, CPU, torch.float32)
    cache.resize_audio(audio_length, 0)
    for buffer in (cache.k, cache.v, cache.audio_mask):
        buffer.normal_()
    for buffer in audio_of(cache):
        buffer.normal_()
    return cache


def audio_of(cache: KVCache) -> list[Tensor]:
    """Return the views of all layers' audio, the keys and the values of each layer."""
    return [buffer for layer in range(TINY.n_text_layer) for buffer in cache.cross_kv(layer)]


def copies(buffers: list[Tensor]) -> list[Tensor]:
    return [buffer.clone() for buffer in buffers]


def are_equal(actual: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(first, second) for first, second in zip(actual, expected, strict=True))


def encoded(windows: int, length: int) -> tuple[Tensor, Tensor]:
    """Return keys and values of windows."""
    return torch.randn(windows, HEADS, length, DEPTH), torch.randn(windows, HEADS, length, DEPTH)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_slot_takes_the_memory_that_is_said_and_begins_with_zeros(dtype: torch.dtype) -> None:
    cache = KVCache(TINY, SLOTS, CPU, dtype)
    buffers = [cache.k, cache.v, *audio_of(cache)]
    assert sum(buffer.nbytes for buffer in buffers) == SLOTS * KVCache.slot_bytes(TINY, dtype)
    assert not any(buffer.any() for buffer in buffers)


def test_the_length_to_attend_to_is_in_steps_and_ends_at_the_context() -> None:
    cache = KVCache(TINY, 1, CPU, torch.float32)
    lengths = {tokens: cache.length_for(tokens) for tokens in range(1, TINY.n_text_ctx + 1)}
    assert all(tokens <= length <= tokens + TEXT_LENGTH_STEP - 1 for tokens, length in lengths.items())
    assert sorted(set(lengths.values())) == [16, 32, 40]
    assert [lengths[tokens] for tokens in (1, 16, 17, 32, 33, 40)] == [16, 16, 32, 32, 40, 40]


@pytest.mark.parametrize("audio_length", [1, 4, 7, 10])
@pytest.mark.parametrize("kept", [0, 1, 3, SLOTS])
def test_the_first_slots_keep_their_audio_as_far_as_it_fits(audio_length: int, kept: int) -> None:
    cache = filled_cache(audio_length=7)
    before = copies(audio_of(cache))
    cache.resize_audio(audio_length, kept)
    common = min(audio_length, 7)
    for actual, old in zip(audio_of(cache), before, strict=True):
        assert actual.shape == (SLOTS, HEADS, audio_length, DEPTH)
        assert torch.equal(actual[:kept, :, :common], old[:kept, :, :common])


def test_a_new_audio_length_leaves_the_text_and_moves_no_buffer() -> None:
    cache = filled_cache()
    text, address = copies([cache.k, cache.v]), cache.cross_kv(0)[0].data_ptr()
    cache.resize_audio(3, SLOTS)
    assert all(buffer.is_contiguous() for buffer in audio_of(cache))
    assert cache.cross_kv(0)[0].data_ptr() == address
    cache.resize_audio(TINY.n_audio_ctx, SLOTS)
    assert are_equal([cache.k, cache.v], text)


def all_layers(windows: int, length: int) -> list[tuple[Tensor, Tensor]]:
    return [encoded(windows, length) for _ in range(TINY.n_text_layer)]


@pytest.mark.parametrize("slots", [slice(0, 1), slice(2, 5), slice(0, SLOTS)])
@pytest.mark.parametrize("length", [4, 7])
def test_every_window_is_written_to_a_slot_of_its_own_and_no_other(slots: slice, length: int) -> None:
    cache = filled_cache(audio_length=7)
    expected = copies(audio_of(cache))
    cross_kv = all_layers(slots.stop - slots.start, length)
    cache.write_audio(slots, cross_kv)
    for old, values in zip(expected, (values for layer in cross_kv for values in layer), strict=True):
        old[slots, :, :length] = values
        old[slots, :, length:] = 0.0
    assert are_equal(audio_of(cache), expected)


def test_transposed_audio_is_the_same_in_another_order_of_memory() -> None:
    plain, transposed = (KVCache(TINY, SLOTS, CPU, torch.float32, is_transposed=flag) for flag in (False, True))
    cross_kv = all_layers(2, 6)
    for cache in (plain, transposed):
        cache.resize_audio(7, 0)
        cache.write_audio(slice(1, 3), cross_kv)
        cache.copy_audio(2, 4)
        cache.resize_audio(6, SLOTS)
    assert are_equal(audio_of(transposed), audio_of(plain))
    assert all(buffer.transpose(2, 3).is_contiguous() for buffer in audio_of(transposed))


def test_the_mask_of_a_slot_is_closed_after_its_audio() -> None:
    cache = filled_cache(audio_length=7)
    before = cache.audio_mask.clone()
    cache.write_audio(slice(1, 3), all_layers(2, 4))
    assert cache.audio_mask[1:3].tolist() == [[0.0] * 4 + [-torch.inf] * 6] * 2
    assert torch.equal(cache.audio_mask[[0, 3, 4]], before[[0, 3, 4]])
    cache.write_audio(slice(1, 2), all_layers(1, 7))  # a longer window takes the slot
    assert cache.audio_mask[1].tolist() == [0.0] * 7 + [-torch.inf] * 3


def test_cleared_slots_have_no_text_and_keep_their_audio() -> None:
    cache = filled_cache()
    text, audio = copies([cache.k, cache.v]), copies(audio_of(cache))
    cache.clear_text(slice(1, 3))
    for buffer in text:
        buffer[:, 1:3] = 0.0
    assert are_equal([cache.k, cache.v, *audio_of(cache)], [*text, *audio])


@pytest.mark.parametrize(("source", "target"), [(4, 0), (0, 4), (2, 2)])
def test_a_copied_slot_has_the_text_up_to_its_length(source: int, target: int) -> None:
    cache = filled_cache(audio_length=7)
    text, audio = copies([cache.k, cache.v]), copies(audio_of(cache))
    cache.copy_text(source, target, 9)
    for buffer in text:
        buffer[:, target, :, :9] = buffer[:, source, :, :9].clone()
        buffer[:, target, :, 9:] = 0.0
    assert are_equal([cache.k, cache.v, *audio_of(cache)], [*text, *audio])


@pytest.mark.parametrize(("source", "target"), [(4, 0), (0, 4)])
def test_a_copied_audio_slot_has_the_whole_audio_and_its_mask(source: int, target: int) -> None:
    cache = filled_cache(audio_length=7)
    text, audio, mask = copies([cache.k, cache.v]), copies(audio_of(cache)), cache.audio_mask.clone()
    cache.copy_audio(source, target)
    for buffer in (*audio, mask):
        buffer[target] = buffer[source].clone()
    assert are_equal([cache.k, cache.v, *audio_of(cache), cache.audio_mask], [*text, *audio, mask])


@pytest.mark.parametrize(
    ("slots", "parents"),
    [([0, 1], [1, 0]), ([1, 2, 3], [1, 1, 1]), ([0, 1, 2, 3, 4], [1, 2, 3, 4, 0]), ([3, 4], [3, 4]), ([1, 3], [3, 3])],
)
def test_slots_take_the_text_that_their_parents_had_before_all_of_them(slots: list[int], parents: list[int]) -> None:
    cache = filled_cache()
    before = copies([cache.k, cache.v])
    others = copies([*audio_of(cache), cache.audio_mask])
    cache.reorder(torch.tensor(slots), torch.tensor(parents), 9)
    for actual, old in zip((cache.k, cache.v), before, strict=True):
        expected = old.clone()
        for slot, parent in zip(slots, parents, strict=True):
            expected[:, slot, :, :9] = old[:, parent, :, :9]
        assert torch.equal(actual, expected)
    assert are_equal([*audio_of(cache), cache.audio_mask], others)


def make_graphs(sizes: list[int]) -> tuple[CudaGraphs, Tensor, list[int]]:
    """Return graphs that square the values of a tensor and add 1 to it, the tensor, and the sizes as captured."""
    values = torch.zeros(20)
    captured: list[int] = []

    def step(count: int) -> Tensor:
        rows = values[:count]
        result = torch.stack((rows * rows, -rows))
        rows.add_(1)
        return result

    def capture_and_note(function: StepFunction) -> CapturedStep:
        replay, result = capture(function)
        captured.append(result.shape[1])
        return replay, result

    return CudaGraphs(step, sizes, capture_and_note), values, captured


def test_graphs_are_captured_from_the_largest_size_to_the_smallest() -> None:
    _, _, captured = make_graphs([2, 20, 1, 8])
    assert captured == [20, 8, 2, 1]


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 2), (3, 8), (8, 8), (9, 20), (20, 20)])
def test_a_step_runs_in_the_smallest_size_that_is_enough(count: int, size: int) -> None:
    graphs, values, _ = make_graphs([1, 2, 8, 20])
    values.copy_(torch.arange(20))
    result = graphs.run(count)
    assert result.tolist() == [[i * i for i in range(count)], [-i for i in range(count)]]
    assert values.tolist() == [i + 1 if i < size else i for i in range(20)]


def test_a_graph_reads_what_the_tensors_hold_when_it_runs() -> None:
    graphs, values, _ = make_graphs([4])
    values.fill_(3)
    assert [graphs.run(2)[0].tolist() for _ in range(3)] == [[9, 9], [16, 16], [25, 25]]


def test_more_slots_than_were_captured_are_refused() -> None:
    graphs, values, _ = make_graphs([1, 2])
    before = values.clone()
    with pytest.raises(ValueError, match="empty"):
        graphs.run(3)
    assert torch.equal(values, before)


def test_a_captured_size_is_never_much_larger_than_what_is_needed() -> None:
    for slots in range(1, 130):
        sizes = sizes_up_to(slots)
        assert sizes == sorted(set(sizes))
        assert sizes[-1] == slots
        for count in range(1, slots + 1):
            size = min(size for size in sizes if size >= count)
            assert size < 2 * count
            assert size < count + 8
