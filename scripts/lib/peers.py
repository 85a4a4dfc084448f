"""Speech recognizers on the same weights, each in a process of its own that answers audio with text and seconds.

Run as a program it is such a process: it loads one of SYSTEMS, says so, and then reads a path or an address a line.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LOG = ROOT / ".peers/log"  # what they say to stderr
Transcribe = Callable[[str], str]  # the path of a file → its text


@dataclass(frozen=True, slots=True)
class Load:
    """What a recognizer is loaded with."""

    folder: Path
    threads: int
    device: str  # cpu or cuda
    language: str | None  # None: an English-only model, which is not to be told


def ours(load: Load, beam_size: int, dtype: str = "auto") -> Transcribe:
    """This worker's pipeline, a file after the other."""
    from handler.audio.source import AudioSource
    from handler.schema.options import Options
    from handler.settings import Settings
    from handler.startup.bootstrap import build
    from handler.startup.process_tuning import fast_imports, freeze_garbage_collector

    with fast_imports():
        pipeline = build(Settings(model_id=str(load.folder), dtype=dtype, device=load.device))
        freeze_garbage_collector()

    def transcribe(path: str) -> str:
        with open(path, "rb") as file:
            options = Options(language="en", beam_size=beam_size)
            return asyncio.run(pipeline.transcribe(AudioSource(file=file), options)).text

    return transcribe


def faster_whisper(load: Load, beam_size: int, compute_type: str = "int8", batch_size: int | None = None) -> Transcribe:
    """faster-whisper: sequential windows as it comes, each with the text before it, or batched ones."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    compute_type = "float16" if load.device == "cuda" else compute_type
    model = WhisperModel(str(load.folder), device=load.device, compute_type=compute_type, cpu_threads=load.threads)
    asked: dict[str, Any] = {"language": "en", "beam_size": beam_size}
    if batch_size is None:
        return lambda path: "".join(segment.text for segment in model.transcribe(path, **asked)[0])
    batched = BatchedInferencePipeline(model)
    return lambda path: "".join(segment.text for segment in batched.transcribe(path, batch_size=batch_size, **asked)[0])


def openvino(load: Load) -> Transcribe:
    """OpenVINO GenAI, with timestamps: long audio needs them."""
    import openvino_genai

    pipeline = openvino_genai.WhisperPipeline(str(load.folder), "CPU", INFERENCE_NUM_THREADS=load.threads)
    asked = {"language": f"<|{load.language}|>", "task": "transcribe"} if load.language else {}
    return lambda path: str(pipeline.generate(_samples(path), return_timestamps=True, **asked))


def whisper_cpp(load: Load) -> Transcribe:
    """whisper.cpp by its Python binding."""
    from pywhispercpp.model import Model

    quiet: dict[str, Any] = {"print_progress": False, "print_realtime": False, "redirect_whispercpp_logs_to": None}
    model = Model(str(load.folder / "model.bin"), n_threads=load.threads, language="en", **quiet)
    return lambda path: " ".join(segment.text for segment in model.transcribe(_samples(path)))


def openai_whisper(load: Load) -> Transcribe:
    """openai-whisper as it comes, on samples that are read as the others' are: it wants an ffmpeg program for files."""
    import torch
    import whisper

    torch.set_num_threads(load.threads)
    model = whisper.load_model(str(next(load.folder.glob("*.pt"))), device=load.device)
    return lambda path: str(
        whisper.transcribe(model, _samples(path), language="en", fp16=load.device == "cuda")["text"]
    )


def transformers(load: Load) -> Transcribe:
    """The pipeline of `transformers`, set up as Salad's asr-api does: chunks of 30 s with 5 s of stride, 16 at once."""
    import torch
    from transformers import pipeline

    torch.set_num_threads(load.threads)
    dtype = torch.float16 if load.device == "cuda" else torch.float32
    recognizer = pipeline(
        "automatic-speech-recognition",
        model=str(load.folder),
        device=load.device,
        dtype=dtype,
        chunk_length_s=30,
        stride_length_s=5,
        batch_size=16,
    )
    asked: dict[str, Any] = {"max_new_tokens": 128}
    if load.language:
        asked |= {"language": load.language, "task": "transcribe"}
    return lambda path: str(
        recognizer({"raw": _samples(path), "sampling_rate": 16_000}, return_timestamps=True, generate_kwargs=asked)[
            "text"
        ]
    )


def _samples(path: str) -> Any:
    """A file's samples at 16 kHz, mono. [n], float32"""
    import av
    import numpy as np

    with av.open(path) as container:
        resampler = av.AudioResampler("flt", "mono", 16_000)
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)] + resampler.resample(
            None
        )
        return np.concatenate([frame.to_ndarray()[0] for frame in frames])


@dataclass(frozen=True, slots=True)
class System:
    """A recognizer and how it is set up."""

    load: Callable[..., Transcribe]
    layout: str = "ctranslate2"  # of its weights
    options: dict[str, Any] = field(default_factory=dict)
    package: str = ""  # whose version is told
    devices: tuple[str, ...] = ("cpu", "cuda")


_FASTER = "faster-whisper"
SYSTEMS: dict[str, System] = {
    "this worker, greedy": System(ours, options={"beam_size": 1}),
    "this worker, 2 beams": System(ours, options={"beam_size": 2}),
    "this worker, 5 beams": System(ours, options={"beam_size": 5}),
    "this worker, greedy, float32": System(ours, options={"beam_size": 1, "dtype": "float32"}),
    "OpenVINO GenAI, int8": System(openvino, "openvino", package="openvino-genai", devices=("cpu",)),
    "faster-whisper, batched, int8": System(
        faster_whisper, package=_FASTER, options={"beam_size": 1, "batch_size": 16}
    ),
    "faster-whisper, 5 beams, int8": System(faster_whisper, package=_FASTER, options={"beam_size": 5}),
    "faster-whisper, 5 beams, float32": System(
        faster_whisper, package="faster-whisper", options={"beam_size": 5, "compute_type": "float32"}
    ),
    "whisper.cpp, float16": System(whisper_cpp, "ggml", package="pywhispercpp", devices=("cpu",)),
    "openai-whisper": System(openai_whisper, "openai", package="openai-whisper"),
    "transformers pipeline, as asr-api": System(transformers, "transformers", package="transformers"),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one file."""

    text: str
    seconds: float  # from the path or the address to the text
    peak_bytes: int  # the most memory that the process has held until now


def peak_bytes(process: int | str) -> int:
    """The most memory that a process has held until now."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


class Peer:
    """A process with one of SYSTEMS, for the time of a block."""

    def __init__(self, name: str, folder: Path, threads: int, device: str, language: str | None = None) -> None:
        self._asked = [name, str(folder), str(threads), device, *([language] if language else [])]
        self._python = sys.executable if SYSTEMS[name].load is ours else str(ROOT / ".peers/bin/python")

    def __enter__(self) -> "Peer":
        threads = self._asked[2]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": threads,
            "LOG_LEVEL": "ERROR",
            "HF_HUB_OFFLINE": "1",
            "PYTHONWARNINGS": "ignore",
        }
        command = [self._python, __file__, *self._asked]
        with LOG.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        try:
            self.version = str(self._read()["version"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def transcribe(self, source: str) -> Answer:
        """The answer to a path or an http address."""
        assert self._process.stdin is not None
        print(source, file=self._process.stdin, flush=True)
        return Answer(**self._read())

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_MARK):  # some print to stdout what they have to say
                return dict(json.loads(line.removeprefix(_MARK)))
        raise RuntimeError(f"{self._asked[0]}: the process ended with {self._process.wait()}; {LOG} says why")


_MARK = "\x1eanswer "


def _say(**answer: Any) -> None:
    print(f"{_MARK}{json.dumps(answer)}", flush=True)


def _answer(transcribe: Transcribe, source: str) -> Answer:
    began = time.perf_counter()
    with tempfile.NamedTemporaryFile() as file:
        if source.startswith("http://"):
            with urllib.request.urlopen(source) as response:
                file.write(response.read())
            file.flush()
        text = transcribe(file.name if source.startswith("http://") else source)
    return Answer(text, time.perf_counter() - began, peak_bytes("self"))


def main() -> None:
    """Load one system and answer line by line until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("threads", type=int)
    parser.add_argument("device")
    parser.add_argument("language", nargs="?")
    given = parser.parse_args()
    system = SYSTEMS[given.system]
    transcribe = system.load(Load(given.folder, given.threads, given.device, given.language), **system.options)
    from importlib.metadata import version

    _say(version=version(system.package) if system.package else "")
    for line in sys.stdin:
        answer = _answer(transcribe, line.strip())
        _say(text=answer.text, seconds=answer.seconds, peak_bytes=answer.peak_bytes)
    os._exit(0)


if __name__ == "__main__":
    main()
