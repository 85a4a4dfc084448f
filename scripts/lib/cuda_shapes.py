"""Run the CUDA path on tensors without values, and report which operators touch the host. See scripts/cuda_shapes.

A step that reads from the host, or whose shapes depend on values, could not be captured as a CUDA graph.
"""

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from handler.whisper.alignment import onset_strength
from handler.whisper.alignment_heads import alignment_heads
from handler.whisper.alignment_queries import AlignmentQueries
from handler.whisper.dims import Dims
from handler.whisper.kv_cache import KVCache
from handler.whisper.model import LogMel, Whisper
from handler.whisper.step import Step
from handler.whisper.tokenizer import Specials

LARGE_V3 = Dims(128, 1500, 1280, 20, 32, 51_866, 448, 1280, 20, 32)
DEVICE, HOST = torch.device("cuda", 0), torch.device("cpu")
SLOTS, WINDOWS, TOKENS = 16, 8, 64
# Host operators that are there on purpose: the weights of the alignment are copied to the host, where words are placed.
ALLOWED = {"words": {"aten.to.dtype_layout": 1}}


class HostOperators(TorchDispatchMode):
    """Counts operators with an argument or a result that is not on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        self.total += 1
        if str(func) == "aten._local_scalar_dense.default" or any(tensor.device != DEVICE for tensor in tensors):
            self.found[str(func)] += 1
        return result


def parts() -> dict[str, Callable[[], object]]:
    """Return the parts of the decoding by name, as functions that run them once."""
    torch.set_default_dtype(torch.float16)
    with torch.device(DEVICE):
        model = Whisper(LARGE_V3).requires_grad_(False).eval()
    torch.set_default_dtype(torch.float32)
    specials = Specials.of_vocab(LARGE_V3.n_vocab)
    mel_of = LogMel(LARGE_V3.n_mels, DEVICE)
    cache = KVCache(LARGE_V3, SLOTS, DEVICE, torch.float16)
    step = Step(model.decoder, cache, torch.zeros(LARGE_V3.n_vocab, device=DEVICE), specials)
    samples = torch.zeros(WINDOWS, LARGE_V3.window_samples, device=DEVICE)
    mel = torch.zeros(WINDOWS, LARGE_V3.n_mels, 3000, device=DEVICE)
    audio = torch.zeros(WINDOWS, LARGE_V3.n_audio_ctx, LARGE_V3.n_audio_state, device=DEVICE, dtype=torch.float16)
    positions = torch.arange(TOKENS, device=DEVICE)
    # Without a driver, even a tensor without values cannot be made from a list on the device.
    queries = AlignmentQueries(alignment_heads(LARGE_V3, True), SLOTS, LARGE_V3.n_text_ctx, 64, HOST, torch.float16)
    queries._layers = {
        layer: (torch.zeros(len(heads), dtype=torch.int64, device=DEVICE), places)
        for layer, (heads, places) in queries._layers.items()
    }
    queries._layer_of_head, queries._heads = torch.zeros(2, len(queries._heads), dtype=torch.int64, device=DEVICE)
    queries.buffer = torch.zeros(queries.buffer.shape, dtype=torch.float16, device=DEVICE)
    cache.alignment = queries

    def words() -> object:
        return cache.alignment_weights(0, 0, positions, LARGE_V3.n_audio_ctx).cpu()

    def move() -> None:
        cache.copy_text(3, 1, TOKENS)
        cache.copy_audio(3, 1)

    return {
        "mel": lambda: (mel_of(samples), onset_strength(mel)),
        "encoder": lambda: model.encoder(mel.half()),
        "keys and values": lambda: cache.write_audio(slice(0, WINDOWS), model.decoder.cross_kv(audio)),
        "step": lambda: step.advance(SLOTS, LARGE_V3.n_text_ctx),
        "step with shared audio": lambda: step.logits(SLOTS, LARGE_V3.n_text_ctx, step.shared_audio(SLOTS, 4, 5)),
        "a slot moves": move,
        "slots are cleared": lambda: cache.clear_text(slice(0, WINDOWS)),
        "words": words,
    }


def main() -> int:
    """Print what was found, and return 1 if a part touches the host that must not."""
    is_right = True
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        for name, run in parts().items():
            with HostOperators() as operators:
                run()
            found = dict(operators.found)
            is_as_meant = found == ALLOWED.get(name, {})
            is_right = is_right and is_as_meant
            mark = "ok  " if is_as_meant else "FAIL"
            print(f"{mark} {name}: {operators.total} operators, on the host: {found or 'none'}")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
