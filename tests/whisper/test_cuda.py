"""What only a GPU can show: CUDA graphs, steps without synchronization, FlashAttention-2, memory.

`scripts/test -m requires_cuda` runs them there.
"""

from collections.abc import Iterator
from itertools import chain

import pytest
import torch

from handler.schema.options import Options
from handler.startup.bootstrap import build
from handler.transcription.pipeline import Pipeline
from handler.whisper.cuda_graphs import cuda_capture
from handler.whisper.engine import WhisperEngine
from tests.conftest import settings
from tests.support.asking import upload
from tests.support.speech import FOX, PANGRAM, SENTENCES, say, wav
from tests.support.synchronization import no_synchronization
from tests.support.word_errors import word_error_rate
from tests.whisper.test_step import replayed_and_eager

pytestmark = [pytest.mark.requires_cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

CUDA = torch.device("cuda")


@pytest.fixture(params=[False, True], ids=["sdpa", "flash"])
def on_gpu(request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    pipeline = build(settings(device="cuda", dtype="auto", flash_attention_2=request.param))
    yield pipeline
    pipeline.close()


@torch.inference_mode()
def test_a_captured_step_equals_the_eager_one_and_never_waits_for_the_host() -> None:
    for replayed, eager in replayed_and_eager(CUDA, cuda_capture(), no_synchronization):
        assert replayed[0].tolist() == eager[0].tolist()


async def test_a_gpu_understands_the_same_words(on_gpu: Pipeline) -> None:
    for text in (FOX, PANGRAM, *SENTENCES):
        transcript = await on_gpu.transcribe(upload(wav(say(text))), Options(timestamps="word"))
        assert word_error_rate(text, transcript.text) <= 0.1
        words = chain.from_iterable(segment.words for segment in transcript.segments)
        assert all(word.end >= word.start for word in words)


async def test_half_the_batch_is_enough(on_gpu: Pipeline) -> None:
    max_batch_size = on_gpu.engine.max_batch_size
    on_gpu.engine.halve()
    assert on_gpu.engine.max_batch_size == max_batch_size // 2
    transcript = await on_gpu.transcribe(upload(wav(say(FOX))), Options())
    assert word_error_rate(FOX, transcript.text) == 0


def test_an_automatic_batch_is_as_large_as_pays() -> None:
    pipeline = build(settings(device="cuda", dtype="auto", batch_size=None))
    try:
        assert isinstance(pipeline.engine, WhisperEngine)
        assert 16 <= pipeline.engine.max_batch_size <= 64
        assert pipeline.engine.device_name == torch.cuda.get_device_name()
    finally:
        pipeline.close()
