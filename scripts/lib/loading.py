"""How fast a large checkpoint becomes a network, and in how much memory, beside `cat`.

Run as a program it is one such loading.
The checkpoint is made up: large-v3's shapes with random numbers, in the layout of `transformers`.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from scripts.lib.peers import ROOT, peak_bytes

LARGE_V3 = {
    "num_mel_bins": 128,
    "d_model": 1280,
    "encoder_layers": 32,
    "decoder_layers": 32,
    "encoder_attention_heads": 20,
    "decoder_attention_heads": 20,
    "vocab_size": 51_866,
    "max_source_positions": 1500,
    "max_target_positions": 448,
    "encoder_ffn_dim": 5120,
    "decoder_ffn_dim": 5120,
}


@dataclass(frozen=True, slots=True)
class Loading:
    """What one loading took."""

    load_s: float  # from opening the file to the last tensor in memory
    pack_s: float  # laid out for the processor, behind that
    peak_bytes: int  # of the whole process, PyTorch included
    empty_bytes: int  # of the same before it loads
    cat_s: float = 0.0  # of the same file


def write_made_up(folder: Path) -> Path:
    """The folder with config.json and model.safetensors in bfloat16, random: small numbers of either sign."""
    import torch
    from safetensors.torch import save_file
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    with torch.device("meta"):
        shapes = {
            name: tensor.shape
            for name, tensor in WhisperForConditionalGeneration(WhisperConfig(**LARGE_V3)).state_dict().items()
        }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper", **LARGE_V3}))
    torch.manual_seed(0)
    tensors = {
        name: torch.randn(shape, dtype=torch.bfloat16).mul_(0.02)
        for name, shape in shapes.items()
        if name != "proj_out.weight"
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def cat(file: Path) -> float:
    """Seconds that `cat` takes to read a file."""
    began = time.perf_counter()
    subprocess.run(["cat", str(file)], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def loaded(folder: Path) -> Loading:
    """What a process of its own says of its loading."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.lib.loading", str(folder)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return Loading(**json.loads(done.stdout))


def main() -> None:
    """Load a folder as a starting process does, and print what it took."""
    import torch

    from handler.engine.heap import return_freed_memory
    from handler.whisper.checkpoint.reader import load, open_checkpoint

    folder = Path(sys.argv[1])
    empty = peak_bytes("self")
    began = time.perf_counter()
    with return_freed_memory():
        model = load(open_checkpoint(folder), torch.device("cpu"), torch.bfloat16)
        read = time.perf_counter()
        model.pack()
        packed = time.perf_counter()
    told = {"load_s": read - began, "pack_s": packed - read, "peak_bytes": peak_bytes("self"), "empty_bytes": empty}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
