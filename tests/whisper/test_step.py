"""The step as one unit on the device: nothing is read back, no shape depends on data, a replay equals the eager step."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor

from handler.whisper.cuda_graphs import Capture, Graphs, sizes_up_to
from handler.whisper.kv_cache import Cache
from handler.whisper.layers import Linear, Vocabulary, packs
from handler.whisper.logit_rules import History, suppression
from handler.whisper.model import Whisper
from handler.whisper.step import Step
from handler.whisper.tokenizer import Specials
from tests.support.replay import Recorder, capture
from tests.whisper.test_model import SMALL, random_model

CPU = torch.device("cpu")
IDS = Specials.of_vocab(SMALL.n_vocab)
BF16_PRODUCTS = packs(torch.zeros(1, dtype=torch.bfloat16))


def made(slots: int, model: Whisper | None = None, device: torch.device = CPU) -> tuple[Step, Cache]:
    model = model or random_model().to(device)
    cache = Cache(SMALL, slots, device, model.decoder.tokens.weight.dtype)
    step = Step(model.decoder, cache, suppression(IDS, [1, 2, 7], device), IDS)
    if device.type != "meta":
        torch.manual_seed(1)
        model.decoder.write_cross_kv(torch.randn(slots, SMALL.n_audio_ctx, 64).to(device), cache, slice(0, slots))
        step.prompt.fill_(1)
        step.history.count.fill_(1)
        step.history.last.copy_(torch.arange(slots) + IDS.timestamp_begin)
    return step, cache


def replayed_and_eager(
    device: torch.device, capture: Capture, around: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[tuple[Tensor, Tensor]]:
    """What a captured step and its eager twin tell for batches of several sizes; both run inside of `around`."""
    eager, _ = made(12, device=device)
    step, _ = made(12, device=device)
    before = [field.clone() for field in step.history.fields()]
    graphs = Graphs(lambda rows: step.greedy(rows, SMALL.n_text_ctx), sizes_up_to(12), capture)
    for field, value in zip(step.history.fields(), before, strict=True):  # capturing has taken steps
        field.copy_(value)
    for rows in (12, 9, 3, 1):
        with around():
            told = graphs.run(rows), eager.greedy(rows, SMALL.n_text_ctx)
        yield told
        for other in (step, eager):  # rows behind the batch hold what no one reads
            other.history.rows(slice(rows, 12)).count.fill_(1)


@torch.inference_mode()
def test_a_replayed_step_equals_the_eager_one_at_every_size() -> None:
    for replayed, eager in replayed_and_eager(CPU, capture):
        assert torch.equal(replayed[0], eager[0])
        assert torch.allclose(replayed[1], eager[1], atol=1e-4)  # the replay works on rows that the eager step leaves out


def test_the_sizes_grow_up_to_all_slots() -> None:
    assert sizes_up_to(1) == [1]
    assert sizes_up_to(4) == [1, 2, 4]
    assert sizes_up_to(20) == [1, 2, 4, 8, 16, 20]


@torch.inference_mode()
def test_a_step_reads_nothing_back_and_has_no_shape_that_depends_on_data() -> None:
    meta = torch.device("meta")  # tensors without values: whatever asks for one fails
    step, _ = made(4, device=meta)
    with Recorder() as recorder:
        told = step.greedy(3, SMALL.n_text_ctx)
    assert told.shape == (2, 3)
    names = {str(func) for func, *_ in recorder.calls}
    assert not names & {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.masked_select.default", "aten.unique2.default"}
    tensors = [part for *_, out in recorder.calls for part in (out if isinstance(out, tuple | list) else [out])]
    assert {part.device.type for part in tensors if isinstance(part, torch.Tensor)} == {"meta"}


@torch.inference_mode()
def test_slots_keep_what_they_hear_when_the_length_changes() -> None:
    model = random_model()
    step, cache = made(3, model)
    torch.manual_seed(2)
    audio = torch.randn(3, 20, 64)
    cache.resize_audio(20, 0)
    model.decoder.write_cross_kv(audio, cache, slice(0, 3))
    short = step.logits(3, 8)
    cache.resize_audio(35, 3)
    assert cache.heard(0)[0].shape[2] == 35
    assert torch.allclose(step.logits(3, 8), short, atol=1e-5)
    cache.move(2, 0, 8)
    assert torch.allclose(step.logits(1, 8)[0], step.logits(3, 8)[0], atol=1e-5)
    cache.resize_audio(20, 3)
    assert torch.allclose(step.logits(3, 8)[1:], short[1:], atol=1e-5)


@pytest.mark.skipif(not BF16_PRODUCTS, reason="this processor has no products in bfloat16")
@torch.inference_mode()
def test_packed_products_equal_plain_ones_to_the_last_digits() -> None:
    torch.manual_seed(0)
    plain = Linear(64, 96)
    for parameter in plain.parameters():  # as they are made they hold what was in memory
        torch.nn.init.normal_(parameter, std=0.1)
    plain = plain.bfloat16().requires_grad_(False)
    packed = copy.deepcopy(plain)
    packed.pack()
    x, to = torch.randn(2, 7, 64).bfloat16(), torch.randn(2, 7, 96).bfloat16()
    for ours, theirs in ((packed(x), plain(x)), (packed.gelu(x), plain.gelu(x)), (packed.added(x, to), plain.added(x, to))):
        assert torch.allclose(ours.float(), theirs.float(), atol=0.03)


@pytest.mark.skipif(not BF16_PRODUCTS, reason="this processor has no products in bfloat16")
@torch.inference_mode()
def test_logits_in_bytes_are_as_probable_and_no_row_depends_on_the_others() -> None:
    torch.manual_seed(0)
    weight, gain = torch.randn(500, 64).bfloat16(), torch.rand(64) * 4 + 0.5
    weight += torch.randn(64)  # what all tokens share
    hidden = (torch.randn(9, 64) * gain).bfloat16()
    product = Vocabulary(weight, gain)
    exact = (hidden.float() @ weight.float().T).log_softmax(-1)
    found = product(hidden).log_softmax(-1)
    assert (found.argmax(-1) == exact.argmax(-1)).all()
    assert (found - exact).std() < 0.02 * exact.std()
    hidden[1:] *= 100
    assert torch.equal(product(hidden)[0].log_softmax(-1), found[0])


def test_history_counts_in_place() -> None:
    history = History.empty(2, IDS, CPU)
    history.rows(slice(1, 2)).append(torch.tensor([5]), IDS)
    assert history.count.tolist() == [0, 1]
