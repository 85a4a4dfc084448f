"""What only a GPU can show: graphs, no look back within a step, FlashAttention-2, memory. `scripts/test -m requires_cuda` runs it there."""

from collections.abc import Iterator

import pytest
import torch

from handler.pipeline import Pipeline, build
from handler.schema import Options
from handler.whisper.engine import WhisperEngine
from handler.whisper.step import Graphs, cuda_capture, sizes_up_to
from tests.asking import upload
from tests.conftest import settings
from tests.speech import FOX, PANGRAM, SENTENCES, say, wav, word_errors
from tests.test_step import made
from tests.test_whisper import SMALL, random_model

pytestmark = [pytest.mark.requires_cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

CUDA = torch.device("cuda")


@pytest.fixture(params=[False, True], ids=["sdpa", "flash"])
def on_gpu(request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    pipeline = build(settings(device="cuda", dtype="auto", flash_attention_2=request.param))
    yield pipeline
    pipeline.close()


@torch.inference_mode()
def test_a_captured_step_equals_the_eager_one_and_never_waits_for_the_host() -> None:
    steps = []
    for _ in range(2):
        model = random_model().to(CUDA)
        step, cache = made(12, model, CUDA)
        torch.manual_seed(1)
        model.decoder.attach(torch.randn(12, SMALL.n_audio_ctx, 64).to(CUDA), cache, slice(0, 12))
        step.prompt.fill_(1)
        step.history.count.fill_(1)
        step.history.last.copy_(torch.arange(12))
        steps.append(step)
    eager, captured = steps
    before = [field.clone() for field in captured.history.fields()]
    graphs = Graphs(lambda rows: captured.greedy(rows, SMALL.n_text_ctx), sizes_up_to(12), cuda_capture())
    for field, value in zip(captured.history.fields(), before, strict=True):
        field.copy_(value)
    for rows in (12, 9, 3, 1):
        torch.cuda.set_sync_debug_mode("error")
        try:
            ours, theirs = graphs.run(rows), eager.greedy(rows, SMALL.n_text_ctx)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert ours[0].tolist() == theirs[0].tolist()
        for other in steps:
            other.history.rows(slice(rows, 12)).count.fill_(1)


async def test_a_gpu_understands_the_same_words(on_gpu: Pipeline) -> None:
    for text in (FOX, PANGRAM, *SENTENCES):
        got = await on_gpu.transcribe(upload(wav(say(text))), Options(timestamps="word"))
        assert word_errors(text, got.text) <= 0.1
        assert all(word.end >= word.start for segment in got.segments for word in segment.words)


async def test_half_of_the_rows_are_enough(on_gpu: Pipeline) -> None:
    rows = on_gpu.engine.rows
    on_gpu.engine.halve()
    assert on_gpu.engine.rows == rows // 2
    assert word_errors(FOX, (await on_gpu.transcribe(upload(wav(say(FOX))), Options())).text) == 0


def test_an_automatic_batch_is_as_large_as_pays() -> None:
    pipeline = build(settings(device="cuda", dtype="auto", batch_size=None))
    try:
        assert isinstance(pipeline.engine, WhisperEngine)
        assert 16 <= pipeline.engine.rows <= 64
        assert pipeline.engine.device_name == torch.cuda.get_device_name()
    finally:
        pipeline.close()
