"""Which number format and which backend is fastest for CTC networks on this processor. See scripts/backends."""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import ParakeetCTCConfig, ParakeetForCTC, Wav2Vec2Config, Wav2Vec2ForCTC

from handler.hub.openvino import load_openvino
from scripts.lib.machine import machine

Run = Callable[[Tensor], Tensor]  # inputs to logits [B, T, V]
SAMPLES_A_FRAME = 160  # of Parakeet's spectrum
BATCHES = ((1, 10.0), (4, 10.0), (1, 30.0))  # windows, and seconds of each


def _wave(folder: Path) -> tuple[Any, Callable[[int, float], Tensor]]:
    """Return a network of the size of wav2vec2-base, and what makes its inputs."""
    network = Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=32))
    network.save_pretrained(folder)
    return Wav2Vec2ForCTC, lambda count, seconds: torch.randn(count, round(16_000 * seconds))


def _parakeet(folder: Path) -> tuple[Any, Callable[[int, float], Tensor]]:
    """Return a network with four of the 24 layers of parakeet-ctc-0.6b, and what makes its inputs."""
    config = ParakeetCTCConfig(
        vocab_size=1025,
        encoder_config={
            "hidden_size": 1024,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "intermediate_size": 4096,
        },
    )
    ParakeetForCTC(config).save_pretrained(folder)
    return ParakeetForCTC, lambda count, seconds: torch.randn(count, round(seconds * 16_000 / SAMPLES_A_FRAME), 80)


def _paths(model_class: Any, folder: Path, with_openvino: bool) -> dict[str, Run]:
    """Return each way to run the network in a folder by its name."""

    def by_torch(dtype: torch.dtype, quantize: bool = False) -> Run:
        network = model_class.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()
        if quantize:
            quantize_dynamic: Any = torch.ao.quantization.quantize_dynamic
            network = quantize_dynamic(network, {torch.nn.Linear}, dtype=torch.qint8)
        return lambda inputs: network(inputs.to(dtype)).logits.float()

    def by_openvino(number_format: str) -> Run:
        network = load_openvino(folder, model_class, number_format, (folder,))
        return lambda inputs: network(input_values=inputs).logits

    paths = {
        "PyTorch, float32": by_torch(torch.float32),
        "PyTorch, bfloat16": by_torch(torch.bfloat16),
        "PyTorch, dynamic int8": by_torch(torch.float32, quantize=True),
    }
    if with_openvino:
        paths |= {"OpenVINO, float32": by_openvino("float32"), "OpenVINO, int8 weights": by_openvino("int8")}
    return paths


def _measure(name: str, paths: dict[str, Run], inputs: Callable[[int, float], Tensor], rounds: int) -> None:
    """Print a row of the table for each batch: speed beside PyTorch in float32, and frames of equal token."""
    for count, seconds in BATCHES:
        batch = inputs(count, seconds)
        times: dict[str, list[float]] = {path: [] for path in paths}
        tokens = {path: run(batch).argmax(-1) for path, run in paths.items()}
        for _ in range(rounds):
            for path, run in paths.items():
                begin = time.perf_counter()
                run(batch)
                times[path].append(time.perf_counter() - begin)
        first = next(iter(paths))
        for path in paths:
            speed = median(times[first]) / median(times[path])
            equal = float((tokens[path] == tokens[first]).float().mean())
            print(f"| {name} | {count} × {seconds:.0f} s | {path} | {speed:.2f} | {equal:.1%} |", flush=True)


def main() -> None:
    """Print a table in Markdown."""
    warnings.simplefilter("ignore")  # PyTorch gives up the quantization that is measured here
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    print(f"{machine('cpu')}, {given.threads} threads\n")
    print(
        "| network | windows | run by | speed beside PyTorch, float32 | frames of equal token |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for name, make, with_openvino in (("wav2vec2-base", _wave, True), ("Parakeet CTC, 4 layers", _parakeet, False)):
            model_class, inputs = make(Path(folder) / name)
            _measure(name, _paths(model_class, Path(folder) / name, with_openvino), inputs, given.rounds)


if __name__ == "__main__":
    main()
