"""A folder with a Whisper checkpoint to the network's tensors, from any of three layouts. Knows no audio and no decoding.

transformers: config.json with safetensors files; openai-whisper: one .pt; CTranslate2: model.bin. Each is a table of names
and a way to read one tensor; `load` puts them together, checks every shape, and lays the query's scale into the weights.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from handler import logs
from handler.engine.cpu_tuning import use_one_thread
from handler.errors import ModelUnavailable
from handler.whisper.checkpoint.conversion_cache import READERS, ConversionCache
from handler.whisper.checkpoint.ctranslate2 import open_ctranslate2
from handler.whisper.checkpoint.layout import KINDS, Checkpoint, brief, faults_of
from handler.whisper.checkpoint.openai import open_openai
from handler.whisper.checkpoint.safetensors_file import SafetensorsFile
from handler.whisper.checkpoint.transformers import open_transformers
from handler.whisper.layers import Linear, packs
from handler.whisper.model import Whisper


def open_checkpoint(folder: Path) -> Checkpoint:
    """Find out the layout of a folder and open it. Raises ModelUnavailable with the name of the file that is at fault."""
    if not folder.is_dir():
        raise ModelUnavailable(f"model folder {folder.name} does not exist")
    openers = (
        (open_transformers, "model.safetensors"),
        (open_transformers, "model.safetensors.index.json"),
        (open_ctranslate2, "model.bin"),
        (open_openai, "*.pt"),
    )
    for opener, pattern in openers:
        if found := sorted(folder.glob(pattern)):
            with faults_of(found[0].name):
                return opener(found[0])
    raise ModelUnavailable(f"model folder {folder.name} has no weights: expected model.safetensors, model.bin or a .pt file; {KINDS} work")


def load(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, kept: ConversionCache | None = None) -> Whisper:
    """The network of a checkpoint with its weights on `device`; from what is kept of it, or noted there to be kept.

    Raises ModelUnavailable for a missing or misshapen tensor.
    """
    with torch.device("meta"):
        model = Whisper(checkpoint.dims)
    name_of_dtype = str(dtype).removeprefix("torch.")
    file = kept.file(name_of_dtype) if kept else None
    tensors = None
    if file:
        try:
            tensors = _tensors(model, SafetensorsFile(file).tensor, device, dtype)
        except (OSError, ValueError, KeyError) as exc:  # another process has removed it, or another version has written it
            logs.warning("kept_checkpoint_unreadable", folder=str(file.parent), reason=brief(exc))
    if tensors is None:
        with faults_of(checkpoint.file):
            tensors = _tensors(model, partial(_assemble, checkpoint), device, dtype)
        if kept:
            kept.schedule_write(name_of_dtype, tensors)
    model.load_state_dict(tensors, assign=True)
    return model.requires_grad_(False).eval()


def _tensors(model: Whisper, read: Callable[[str], Tensor], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """All that a network needs, read by several threads."""

    def placed(name: str, expected: Tensor) -> Tensor:
        tensor = read(name)
        if tensor.shape != expected.shape:
            raise ValueError(f"{name} is {list(tensor.shape)}, expected {list(expected.shape)}")
        placed = tensor.to(device=device, dtype=dtype)
        if placed.device.type == "cpu" and placed is tensor and not (name in soon and packs(placed)):
            placed = tensor.clone()  # nothing that serves stays mapped: its file may be cut, and its pages may leave memory
        return placed

    wanted = model.state_dict()
    soon = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Linear)}  # laid out, and let go of
    with ThreadPoolExecutor(READERS, initializer=use_one_thread) as readers:
        return dict(zip(wanted, readers.map(placed, wanted, wanted.values()), strict=True))


def _assemble(checkpoint: Checkpoint, name: str) -> Tensor:
    """One of our tensors from the checkpoint's: joined, a missing key bias as zeros, queries scaled."""
    names = checkpoint.names
    if name in names.tensors:
        return _required(checkpoint, names.tensors[name])
    module, _, kind = name.rpartition(".")
    parts = [_part(checkpoint, source, kind) for source in names.modules_of(module)]
    tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
    if module.endswith(("attn.qkv", "cross.q")):
        heads = checkpoint.dims.n_audio_head if module.startswith("encoder") else checkpoint.dims.n_text_head
        state = checkpoint.dims.n_audio_state if module.startswith("encoder") else checkpoint.dims.n_text_state
        if tensor.dtype == torch.float16:
            tensor = tensor.float()  # its smallest numbers would lose bits
        scale: float = (state // heads) ** -0.5  # 1/8 in every published size: exact
        if len(tensor) == state:
            return tensor * scale  # not in place: it may be the checkpoint's own
        tensor[:state] *= scale
    return tensor


def _part(checkpoint: Checkpoint, module: str, kind: str) -> Tensor:
    found = checkpoint.read(checkpoint.names.parameter(module, kind))
    if found is None and kind == "bias" and module.endswith(("k_proj", "key")):  # keys have none
        return torch.zeros(_required(checkpoint, checkpoint.names.parameter(module, "weight")).shape[0])
    return found if found is not None else _required(checkpoint, checkpoint.names.parameter(module, kind))


def _required(checkpoint: Checkpoint, name: str) -> Tensor:
    tensor = checkpoint.read(name)
    if tensor is None:
        raise ValueError(f"it has no tensor {name}")
    return tensor
