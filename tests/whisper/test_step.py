"""The decoding step: it reads nothing back, no shape depends on data, and a replay equals the eager step."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from handler.whisper.alignment_heads import alignment_heads
from handler.whisper.attention import PAGE_STEP, PagedAttention, Pages, SharedAudio, paged_by_products
from handler.whisper.cuda_graphs import Capture, CudaGraphs, sizes_up_to
from handler.whisper.decoding_state import DecodingState
from handler.whisper.dims import Dims
from handler.whisper.kv_cache import KVCache
from handler.whisper.layers import Linear, PackedLogits, QuantizedLogits, can_pack
from handler.whisper.logit_rules import suppression
from handler.whisper.model import Whisper
from handler.whisper.step import Step
from handler.whisper.tokenizer import Specials
from tests.support.replay import Recorder, capture
from tests.whisper.test_model import SMALL, random_model

CPU = torch.device("cpu")
IDS = Specials.of_vocab(SMALL.n_vocab)
BF16_PRODUCTS = can_pack(torch.zeros(1, dtype=torch.bfloat16))


def step_and_cache(slots: int, model: Whisper | None = None, device: torch.device = CPU) -> tuple[Step, KVCache]:
    model = model or random_model().to(device)
    cache = KVCache(SMALL, slots, device, model.decoder.tokens.weight.dtype)
    step = Step(model.decoder, cache, suppression(IDS, [1, 2, 7], device), IDS)
    if device.type != "meta":
        torch.manual_seed(1)
        cache.write_audio(slice(0, slots), model.decoder.cross_kv(torch.randn(slots, SMALL.n_audio_ctx, 64).to(device)))
        step.state.prompt_lengths.fill_(1)
        step.state.history.count.fill_(1)
        step.state.history.last.copy_(torch.arange(slots) + IDS.timestamp_begin)
    return step, cache


def replayed_and_eager(
    device: torch.device, capture: Capture, context: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the results of a captured step and of its eager twin for several batch sizes; both run inside `context`."""
    eager, _ = step_and_cache(12, device=device)
    step, _ = step_and_cache(12, device=device)
    initial = [field.clone() for field in step.state.history.fields()]
    graphs = CudaGraphs(lambda count: step.greedy(count, SMALL.n_text_ctx), sizes_up_to(12), capture)
    for field, value in zip(step.state.history.fields(), initial, strict=True):  # capturing runs steps
        field.copy_(value)
    for count in (12, 9, 3, 1):
        with context():
            results = graphs.run(count), eager.greedy(count, SMALL.n_text_ctx)
        yield results
        for twin in (step, eager):  # slots after the batch hold values that no one reads
            twin.state.history.rows(slice(count, 12)).count.fill_(1)


@torch.inference_mode()
def test_a_replayed_step_equals_the_eager_one_at_every_size() -> None:
    for replayed, eager in replayed_and_eager(CPU, capture):
        assert torch.equal(replayed[0], eager[0])
        assert torch.allclose(replayed[1], eager[1], atol=1e-4)  # the replay computes slots that the eager step omits


def test_the_sizes_grow_up_to_all_slots() -> None:
    assert sizes_up_to(1) == [1]
    assert sizes_up_to(4) == [1, 2, 4]
    assert sizes_up_to(20) == [1, 2, 4, 8, 12, 16, 20]
    assert sizes_up_to(64) == [1, 2, 4, 8, 12, *range(16, 65, 8)]
    assert len(sizes_up_to(1024)) < 50
    assert all(following <= size * 5 // 4 for size, following in pairwise(sizes_up_to(1024)[7:]))


@torch.inference_mode()
def test_a_step_reads_nothing_back_and_has_no_shape_that_depends_on_data() -> None:
    meta = torch.device("meta")  # tensors without values: reading one fails
    step, _ = step_and_cache(4, device=meta)
    with Recorder() as recorder:
        told = step.advance(3, SMALL.n_text_ctx)
    assert told.shape == (3, 3)  # tokens, log-probabilities, and those of no speech
    names = {str(func) for func, *_ in recorder.calls}
    for name in ("_local_scalar_dense", "nonzero", "masked_select", "unique2"):
        assert f"aten.{name}.default" not in names
    leaves = tree_leaves([result for *_, result in recorder.calls])
    assert {leaf.device.type for leaf in leaves if isinstance(leaf, Tensor)} == {"meta"}


@torch.inference_mode()
def test_slots_keep_their_audio_when_its_length_changes() -> None:
    model = random_model()
    step, cache = step_and_cache(3, model)
    torch.manual_seed(2)
    audio = torch.randn(3, 20, 64)
    cache.resize_audio(20, 0)
    cache.write_audio(slice(0, 3), model.decoder.cross_kv(audio))
    short = step.logits(3, 8)
    cache.resize_audio(35, 3)
    assert cache.cross_kv(0)[0].shape[2] == 35
    assert torch.allclose(step.logits(3, 8), short, atol=1e-5)
    cache.copy_text(2, 0, 8)
    cache.copy_audio(2, 0)
    assert torch.allclose(step.logits(1, 8)[0], step.logits(3, 8)[0], atol=1e-5)
    cache.resize_audio(20, 3)
    assert torch.allclose(step.logits(3, 8)[1:], short[1:], atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float32, 1e-5)])
@torch.inference_mode()
def test_packed_products_equal_plain_ones_to_the_last_digits(dtype: torch.dtype, tolerance: float) -> None:
    if not can_pack(torch.zeros(1, dtype=dtype)):
        pytest.skip(f"this processor has no packed products in {dtype}")
    torch.manual_seed(0)
    plain = Linear(64, 96)
    for parameter in plain.parameters():  # uninitialized until now
        torch.nn.init.normal_(parameter, std=0.1)
    plain = plain.to(dtype).requires_grad_(False)
    packed = copy.deepcopy(plain)
    packed.pack()
    assert packed.packed is not None
    x, residual = torch.randn(2, 7, 64).to(dtype), torch.randn(2, 7, 96).to(dtype)
    for actual, expected in (
        (packed(x), plain(x)),
        (packed.gelu(x), plain.gelu(x)),
        (packed.add_to(residual, x), plain.add_to(residual, x)),
    ):
        assert torch.allclose(actual.float(), expected.float(), atol=tolerance)


@torch.inference_mode()
def test_packed_logits_equal_plain_ones() -> None:
    weight, hidden = torch.randn(500, 64), torch.randn(9, 64)
    if not can_pack(weight):
        pytest.skip("this processor has no packed products in float32")
    assert torch.allclose(PackedLogits(weight)(hidden), hidden @ weight.T, atol=1e-4)


@pytest.mark.skipif(not BF16_PRODUCTS, reason="this processor has no products in bfloat16")
@torch.inference_mode()
def test_quantized_logits_are_as_probable_and_no_sequence_depends_on_the_others() -> None:
    torch.manual_seed(0)
    weight, gain = torch.randn(500, 64).bfloat16(), torch.rand(64) * 4 + 0.5
    weight += torch.randn(64)  # common to all tokens
    hidden = (torch.randn(9, 64) * gain).bfloat16()
    product = QuantizedLogits(weight, gain)
    exact = (hidden.float() @ weight.float().T).log_softmax(-1)
    quantized = product(hidden).log_softmax(-1)
    assert (quantized.argmax(-1) == exact.argmax(-1)).all()
    assert (quantized - exact).std() < 0.02 * exact.std()
    hidden[1:] *= 100
    assert torch.equal(product(hidden)[0].log_softmax(-1), quantized[0])


def test_history_counts_in_place() -> None:
    history = DecodingState(2, IDS, CPU).history
    history.rows(slice(1, 2)).append(torch.tensor([5]), IDS)
    assert history.count.tolist() == [0, 1]


@torch.inference_mode()
def test_attention_by_pages_equals_that_by_masks() -> None:
    model = random_model()
    shared = SharedAudio(slice(0, 3), torch.tensor([2, 0, 2, 1, 0]), torch.tensor([0, 0, 1, 0, 1]), 2)
    logits = list[Tensor]()
    for page_step, paged in ((1, None), (256, paged_by_products)):
        model.decoder.paged_attention = paged
        cache = KVCache(SMALL, 6, CPU, torch.float32, page_step=page_step)
        torch.manual_seed(3)
        cache.write_audio(slice(0, 6), model.decoder.cross_kv(torch.randn(6, SMALL.n_audio_ctx, 64)))
        prompts, slots = torch.randint(5, 50, (5, 7)), slice(1, 6)
        model.decoder(prompts, torch.arange(7).expand(5, 7), cache, slots, 7, shared)
        lengths = torch.tensor([[7], [3], [5], [6], [2]])  # what comes after them is not attended to
        for audio in (shared, slice(1, 6)):
            hidden = model.decoder(prompts[:, :1], lengths, cache, slots, 16, audio)
            logits.append(model.decoder.logits(hidden[:, 0]))
    assert torch.allclose(logits[0], logits[2], atol=1e-4)
    assert torch.allclose(logits[1], logits[3], atol=1e-4)
    assert not torch.allclose(logits[0], logits[1], atol=1e-2)


def count_only(q: Tensor, k: Tensor, v: Tensor, pages: Pages) -> Tensor:
    """Stand for the attention kernel, which is one."""
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


KERNELS = [(count_only, 32, 610), (count_only, 4, 146), (None, 32, 769), (None, 4, 165)]


@pytest.mark.parametrize(
    ("paged", "layers", "kernels"), KERNELS, ids=["large-v3", "turbo", "T4: large-v3", "T4: turbo"]
)
@torch.inference_mode()
def test_a_step_of_a_large_model_starts_few_kernels(paged: PagedAttention | None, layers: int, kernels: int) -> None:
    dims = Dims(128, 1500, 1280, 20, 32, 51_866, 448, 1280, 20, layers)
    meta, specials = torch.device("meta"), Specials.of_vocab(dims.n_vocab)
    with meta:
        decoder = Whisper(dims).decoder.requires_grad_(False).half()
        bias = torch.zeros(dims.n_vocab)
    decoder.paged_attention = paged
    page_step = PAGE_STEP if paged else 1
    cache = KVCache(dims, 16, meta, torch.float16, alignment_heads(dims, True), page_step)
    step = Step(decoder, cache, bias, specials)
    with Recorder() as recorder:
        step.advance(16, dims.n_text_ctx)
    operators = [call[0] for call in recorder.calls]
    # A GPU starts at least one kernel for each operator that is more than another view of a tensor.
    views = sum(operator.is_view or operator is torch.ops.aten.empty.memory_format for operator in operators)
    attention = 2 * layers if paged else 0  # once for the text and once for the audio, instead of `count_only`
    assert len(operators) - views + attention <= kernels
