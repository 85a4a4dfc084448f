"""How fast a device is: the parts of the decoding, and whole requests. See scripts/gpu_check."""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from handler.schema.window import Window
from scripts.lib.gpu_subject import Subject, as_mp3
from scripts.lib.gpu_timing import seconds_of, seconds_per_call
from tests.support.speech import say, wav

ROWS = (1, 2, 4, 8, 16, 32, 64)
CLIENTS = (1, 4, 16, 32, 64)
ROWS_CPU, CLIENTS_CPU = (1, 4), (1, 2)
CLIPS_A_CLIENT, CLIPS_A_CLIENT_CPU = 4, 2
LONG_S, LONG_S_CPU = 600.0, 20.0
JOBS, JOBS_CPU = 64, 1
JOB_S = 40.0  # two windows
BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH)


def step(subject: Subject) -> list[dict[str, Any]]:
    """Return the milliseconds of a decoding step by rows, without and with a graph, and the GB/s that it reads."""
    engine = subject.engine
    batch, dims = engine._batch, engine._model.dims
    weights = sum(tensor.nbytes for tensor in engine._model.decoder.state_dict().values())
    table = []
    for rows in ROWS if subject.is_gpu else ROWS_CPU:
        if rows > engine.max_batch_size:
            break
        with engine._on_device():
            eager = seconds_per_call(lambda rows=rows: batch._step.greedy(rows, dims.n_text_ctx), subject.device)  # type: ignore[misc]
            graph, products = None, None
            if (paged := engine._model.decoder.paged_attention) is not None:
                engine._model.decoder.paged_attention = None
                products = seconds_per_call(lambda rows=rows: batch._step.greedy(rows, dims.n_text_ctx), subject.device)  # type: ignore[misc]
                engine._model.decoder.paged_attention = paged
            if batch._graphs is not None:
                graph = seconds_per_call(lambda rows=rows: batch._graphs.advance(rows), subject.device)  # type: ignore[misc]
            batch._step.clear()
        read = weights + rows * engine._cache.slot_bytes(dims, engine._workshop.dtype)
        rate = round(read / (graph or eager) / 1e9)
        table.append(
            {
                "rows": rows,
                "eager_ms": _ms(eager),
                "products_ms": _ms(products),
                "graph_ms": _ms(graph),
                "gb_per_s": rate,
            }
        )
    return table


def encoder(subject: Subject) -> list[dict[str, Any]]:
    """Return the milliseconds of the encoder by windows encoded together: the first call, and later ones."""
    engine = subject.engine
    table = []
    for windows in engine._encoder.sizes:
        samples = torch.zeros(windows, engine._model.dims.window_samples, device=subject.device)

        def encode(samples: torch.Tensor = samples) -> object:
            return engine._encoder.forward(samples)

        with engine._on_device():
            table.append({"windows": windows, "first_ms": _ms(seconds_of(encode, subject.device))})
            table[-1]["ms"] = _ms(seconds_per_call(encode, subject.device))
    return table


def attention(subject: Subject) -> list[dict[str, Any]]:
    """Return the milliseconds of each kernel for the encoder's attention: the first call, and later ones."""
    engine, dims = subject.engine, subject.engine._model.dims
    windows = engine.encode_batch_size
    shape = (windows, dims.n_audio_head, dims.n_audio_ctx, dims.n_audio_state // dims.n_audio_head)
    q = torch.randn(shape, device=subject.device, dtype=engine._workshop.dtype)
    table = []
    for backend in BACKENDS if subject.is_gpu else ():

        def attend(backend: SDPBackend = backend) -> object:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, q, q, scale=1.0)

        row: dict[str, Any] = {"kernel": backend.name.lower(), "windows": windows}
        try:
            row["first_ms"] = _ms(seconds_of(attend, subject.device))
            row["ms"] = _ms(seconds_per_call(attend, subject.device))
        except RuntimeError as exc:
            row["refused"] = str(exc).splitlines()[0]
        table.append(row)
    return table


def window(subject: Subject) -> dict[str, Any]:
    """Return the milliseconds of a window's parts: its admission, a step, the last step and the times of its words."""
    engine = subject.engine
    admission, result, seconds = 0.0, 0.0, list[float]()
    for text in subject.texts:
        work = [Window(0, say(text)).with_params(language="en")]
        finished = list[object]()

        def advance(finished: list[object] = finished) -> None:
            finished += engine.advance()

        engine.admit(work)
        admission += seconds_of(advance, subject.device)
        while not finished:
            seconds.append(seconds_of(advance, subject.device))
        result += seconds.pop()
    return {
        "admission_and_first_step_ms": _ms(admission / len(subject.texts)),
        "step_ms": _ms(median(seconds)),
        "last_step_and_result_ms": _ms(result / len(subject.texts)),
    }


def throughput(subject: Subject) -> list[dict[str, Any]]:
    """Return how many seconds of audio are transcribed in a second, for the loads that users have."""
    long = subject.story(LONG_S if subject.is_gpu else LONG_S_CPU)
    job = wav(subject.story(JOB_S), format="FLAC")
    jobs = JOBS if subject.is_gpu else JOBS_CPU
    loads: list[tuple[str, Sequence[bytes], int]] = [
        ("one long flac", [wav(long, format="FLAC")], 1),
        ("one long mp3", [as_mp3(long)], 1),
        *((f"clips, {clients} clients", _clips(subject, clients), clients) for clients in _clients(subject)),
        (f"{jobs} jobs of two windows", [job] * jobs, jobs),
    ]
    table = []
    for name, files, clients in loads:
        began, device_s = time.perf_counter(), subject.pipeline.runner.device_s
        transcripts = subject.transcribe(files, clients)
        seconds = time.perf_counter() - began
        audio_s = sum(transcript.duration for transcript in transcripts)
        busy = (subject.pipeline.runner.device_s - device_s) / seconds
        table.append({"load": name, "times_real_time": round(audio_s / seconds, 1), "device_busy": round(busy, 2)})
    return table


def memory(subject: Subject) -> dict[str, Any]:
    """Return the most memory of the GPU that was in use, in GiB."""
    if not subject.is_gpu:
        return {}
    gib = 1024**3
    return {
        "allocated_gib": round(torch.cuda.max_memory_allocated(subject.device) / gib, 2),
        "reserved_gib": round(torch.cuda.max_memory_reserved(subject.device) / gib, 2),
    }


def _clients(subject: Subject) -> tuple[int, ...]:
    return CLIENTS if subject.is_gpu else CLIENTS_CPU


def _clips(subject: Subject, clients: int) -> list[bytes]:
    count = clients * (CLIPS_A_CLIENT if subject.is_gpu else CLIPS_A_CLIENT_CPU)
    return (subject.clips * (count // len(subject.clips) + 1))[:count]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)


TABLES: dict[str, Callable[[Subject], Any]] = {
    "step": step,
    "encoder": encoder,
    "attention": attention,
    "window": window,
    "throughput": throughput,
    "memory": memory,
}
