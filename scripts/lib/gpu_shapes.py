"""Measure how fast models of Whisper's shapes are decoded, with random weights. See scripts/gpu_shapes."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handler import logs
from handler.engine.device import choose_device, on_device, prepare_device
from handler.schema.window import SAMPLE_RATE, Window
from handler.settings import Settings
from handler.startup.model_locator import find_model
from handler.timeline import Timeline
from handler.whisper.batch import Batch
from handler.whisper.dims import Dims
from handler.whisper.engine import WhisperEngine
from handler.whisper.loading import build_engine
from handler.whisper.model import Whisper
from handler.whisper.sequences import ActiveSequence
from handler.whisper.tokenizer import Specials, Tokenizer
from scripts.lib.convert import TINY
from scripts.lib.gpu_facts import device_facts
from scripts.lib.gpu_report import markdown_table
from scripts.lib.gpu_timing import seconds_of, seconds_per_call

WINDOW_S = 28.0  # of a window in the middle of speech
TOKENS = 112  # that such a window has: four a second
ROWS = (16, 64)
WAVES = 3  # windows a row
# Vocabulary and text context are those of the small model, whose tokenizer is used.
SHAPES = {
    "large-v3": Dims(128, 1500, 1280, 20, 32, 51_864, 448, 1280, 20, 32),
    "turbo": Dims(128, 1500, 1280, 20, 32, 51_864, 448, 1280, 20, 4),
    "tiny": Dims(80, 1500, 384, 6, 4, 51_864, 448, 384, 6, 4),
}


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured for one shape and number of rows."""

    shape: str
    rows: int
    step_ms: float  # of a step that is not disturbed, at the full length of the texts
    encoder_ms: float  # of a window, several together
    times_real_time: float
    transformers: float | None  # the same, of generate() on features that are on the device already
    ratio: float | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and write a JSON file."""
    parser = argparse.ArgumentParser(prog="scripts/gpu_shapes", description=__doc__)
    parser.add_argument("--device", default="cuda", help="DEVICE (%(default)s)")
    parser.add_argument("--shapes", nargs="+", default=["large-v3", "turbo"], choices=SHAPES, help="%(default)s")
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS, help="sequences of a batch (%(default)s)")
    parser.add_argument("--waves", type=int, default=WAVES, help="windows for each row of a batch (%(default)s)")
    parser.add_argument("--no-peer", action="store_true", help="leave transformers out")
    parser.add_argument("--json", type=Path, default=Path("gpu_shapes.json"), help="file to write (%(default)s)")
    options = parser.parse_args(arguments)
    logs.configure("WARNING")
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    for shape in options.shapes:
        for number in options.rows:
            print(f"{shape}, {number} rows", file=sys.stderr, flush=True)
            rows.append(asdict(measure(shape, number, options)))
    facts = device_facts(choose_device(options.device))
    options.json.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")
    print("\n".join(markdown_table(rows)))
    return 0


def measure(shape: str, rows: int, options: argparse.Namespace) -> Row:
    """Return the times of one shape and number of rows."""
    settings = Settings(model_id=TINY, device=options.device, batch_size=rows)
    engine = random_engine(SHAPES[shape], settings)
    with all_sequences_end_at(TOKENS):
        decode(engine, rows)  # captures what is captured when it is first needed
        seconds = decode(engine, options.waves * rows)
    times = options.waves * rows * WINDOW_S / seconds
    step_ms, encoder_ms = 1000 * step_s(engine, rows), 1000 * encoder_s(engine)
    device = engine._device
    del engine
    peer = None if options.no_peer else rows * WINDOW_S / transformers_s(SHAPES[shape], rows, device)
    ratio = None if peer is None else round(times / peer, 2)
    return Row(shape, rows, round(step_ms, 3), round(encoder_ms, 2), round(times, 1), peer and round(peer, 1), ratio)


def random_engine(dims: Dims, settings: Settings) -> WhisperEngine:
    """Return an engine with random weights of these sizes, and the tokenizer of the model that the settings name."""
    device, dtype = prepare_device(settings)
    model = Whisper(dims).requires_grad_(False).to(device=device, dtype=dtype)
    for name, parameter in model.named_parameters():
        parameter.normal_(0, 0.02) if parameter.ndim > 1 else parameter.fill_(float("norm.weight" in name))
    tokenizer = Tokenizer.from_folder(find_model(settings.model_id, settings.cache_dir), dims.n_vocab)
    with on_device(device):
        return build_engine(model.pack(), tokenizer, (), (), settings, Timeline())


@contextmanager
def all_sequences_end_at(tokens: int) -> Iterator[None]:
    """Let every sequence end at so many tokens inside the block, and not before: random ones end at any length."""

    def is_finished(_: Batch, sequence: ActiveSequence) -> bool:
        return len(sequence.hypothesis.tokens) >= tokens

    method = Batch._is_finished
    Batch._is_finished = is_finished  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Batch._is_finished = method  # type: ignore[method-assign]


def decode(engine: WhisperEngine, count: int) -> float:
    """Decode so many windows of noise, words and their times included. Return the seconds that it took."""
    noise = np.random.default_rng(0)
    size = round(WINDOW_S * SAMPLE_RATE)
    waiting = [
        Window(0, (noise.standard_normal(size) / 20).astype(np.float32)).with_params(language="en")
        for _ in range(count)
    ]
    finished = 0
    began = time.perf_counter()
    while finished < count:
        if (free := engine.free()) > 0 and waiting:
            engine.admit(waiting[:free])
            del waiting[:free]
        finished += len(engine.advance())
    return time.perf_counter() - began


def step_s(engine: WhisperEngine, rows: int) -> float:
    """Return the seconds of a step at the full length of the texts, by its graph if there is one."""
    batch, context = engine._batch, engine._model.dims.n_text_ctx
    batch._step.state.history.count.fill_(context)
    work: Callable[[], object] = partial(batch._step.greedy, rows, context)
    if batch._graphs is not None:
        work = partial(batch._graphs.advance, rows)
    with engine._on_device():
        return seconds_per_call(work, engine._device)


def encoder_s(engine: WhisperEngine) -> float:
    """Return the seconds of the encoder for each of the windows that are best encoded together."""
    samples = torch.zeros(engine.encode_batch_size, engine._model.dims.window_samples, device=engine._device)
    with engine._on_device():
        return seconds_per_call(lambda: engine._encoder.forward(samples), engine._device) / len(samples)


def transformers_s(dims: Dims, batch: int, device: torch.device) -> float:
    """Return the seconds that transformers takes for a batch of windows of such a model, from features to tokens."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration
    from transformers.utils import logging

    logging.set_verbosity_error()  # it finds the lengths below worth four lines at each call
    eot = Specials.of_vocab(dims.n_vocab).eot
    config = WhisperConfig(
        vocab_size=dims.n_vocab,
        num_mel_bins=dims.n_mels,
        d_model=dims.n_audio_state,
        encoder_layers=dims.n_audio_layer,
        decoder_layers=dims.n_text_layer,
        encoder_attention_heads=dims.n_audio_head,
        decoder_attention_heads=dims.n_text_head,
        encoder_ffn_dim=4 * dims.n_audio_state,
        decoder_ffn_dim=4 * dims.n_text_state,
        bos_token_id=eot,
        eos_token_id=eot,
        pad_token_id=eot,
        decoder_start_token_id=eot + 1,
        max_length=dims.n_text_ctx,
    )
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    with device:
        model = WhisperForConditionalGeneration(config).to(dtype).eval()
        features = torch.randn(batch, dims.n_mels, 2 * dims.n_audio_ctx, dtype=dtype)
        mask = torch.ones(batch, 2 * dims.n_audio_ctx)
    lengths = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False}
    with torch.inference_mode():
        model.generate(features, attention_mask=mask, **lengths)
        return seconds_of(lambda: model.generate(features, attention_mask=mask, **lengths), device)


if __name__ == "__main__":
    sys.exit(main())
