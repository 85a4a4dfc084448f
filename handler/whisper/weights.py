"""A folder with a Whisper checkpoint to the network's tensors, from any of three layouts. Knows no audio and no decoding.

transformers: config.json with safetensors files; openai-whisper: one .pt; CTranslate2: model.bin. Each is a table of names
and a way to read one tensor; `load` puts them together, checks every shape, and lays the query's scale into the weights.
"""

import json
import pickle
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handler import logs
from handler.device import work_alone
from handler.errors import ModelUnavailable
from handler.whisper.ctranslate2 import variables_in
from handler.whisper.dims import Dims
from handler.whisper.kept import READERS, Kept
from handler.whisper.linear import Linear, packs
from handler.whisper.model import Whisper
from handler.whisper.safefile import SafeFile

KINDS = "Whisper checkpoints of transformers (safetensors), openai-whisper (.pt) and CTranslate2 (model.bin)"

# Our name, then the names in transformers, openai-whisper and CTranslate2; several are joined along their first dimension.
_IN_LAYER = {
    "attn_norm": ("self_attn_layer_norm", "attn_ln", "self_attention/layer_norm"),
    "attn.qkv": (
        "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
        "attn.query attn.key attn.value",
        "self_attention/linear_0",
    ),
    "attn.out": ("self_attn.out_proj", "attn.out", "self_attention/linear_1"),
    "cross_norm": ("encoder_attn_layer_norm", "cross_attn_ln", "attention/layer_norm"),
    "cross.q": ("encoder_attn.q_proj", "cross_attn.query", "attention/linear_0"),
    "cross.kv": ("encoder_attn.k_proj encoder_attn.v_proj", "cross_attn.key cross_attn.value", "attention/linear_1"),
    "cross.out": ("encoder_attn.out_proj", "cross_attn.out", "attention/linear_2"),
    "mlp_norm": ("final_layer_norm", "mlp_ln", "ffn/layer_norm"),
    "mlp.up": ("fc1", "mlp.0", "ffn/linear_0"),
    "mlp.down": ("fc2", "mlp.2", "ffn/linear_1"),
}
_LAYERS = ("model.{side}.layers.", "{side}.blocks.", "{side}/layer_")
_MODULES = {
    "encoder.conv1": ("model.encoder.conv1", "encoder.conv1", "encoder/conv1"),
    "encoder.conv2": ("model.encoder.conv2", "encoder.conv2", "encoder/conv2"),
    "encoder.norm": ("model.encoder.layer_norm", "encoder.ln_post", "encoder/layer_norm"),
    "decoder.tokens": ("model.decoder.embed_tokens", "decoder.token_embedding", "decoder/embeddings"),
    "decoder.norm": ("model.decoder.layer_norm", "decoder.ln", "decoder/layer_norm"),
}
_TENSORS = {
    "encoder.positions": (
        "model.encoder.embed_positions.weight",
        "encoder.positional_embedding",
        "encoder/position_encodings/encodings",
    ),
    "decoder.positions": (
        "model.decoder.embed_positions.weight",
        "decoder.positional_embedding",
        "decoder/position_encodings/encodings",
    ),
}
_TRANSFORMERS, _OPENAI, _CTRANSLATE2 = range(3)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint: sizes at hand, tensors on demand."""

    file: str  # name of the file, or of the index of the files, for messages
    layout: int
    dims: Dims
    read: Callable[[str], Tensor | None]  # a tensor by its name in the file, or None where there is none such
    suppress: tuple[int, ...] | None = None  # text ids that never come, where the checkpoint names them
    alignment_heads: tuple[tuple[int, int], ...] = ()  # (layer, head) pairs whose cross-attention follows time


def open_checkpoint(folder: Path) -> Checkpoint:
    """Find out the layout of a folder and open it. Raises ModelUnavailable with the name of the file that is at fault."""
    if not folder.is_dir():
        raise ModelUnavailable(f"model folder {folder.name} does not exist")
    openers = (
        (_open_transformers, "model.safetensors"),
        (_open_transformers, "model.safetensors.index.json"),
        (_open_ctranslate2, "model.bin"),
        (_open_openai, "*.pt"),
    )
    for opener, pattern in openers:
        if found := sorted(folder.glob(pattern)):
            with _faults_of(found[0].name):
                return opener(found[0])
    raise ModelUnavailable(f"model folder {folder.name} has no weights: expected model.safetensors, model.bin or a .pt file; {KINDS} work")


class _faults_of:  # noqa: N801 - reads as a clause
    """Maps whatever a reader of weights raises to ModelUnavailable, with the file's name."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, torch.OutOfMemoryError):  # a RuntimeError, and no fault of the file
            return
        foreign = (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, RuntimeError, struct.error)
        if isinstance(exc, (*foreign, pickle.UnpicklingError)):
            raise ModelUnavailable(f"{self.file} is cut, damaged or not a Whisper checkpoint: {_brief(exc)}") from exc


def _brief(exc: BaseException) -> str:
    text = (str(exc).strip().splitlines() or [""])[0][:160]
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def load(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, kept: Kept | None = None) -> Whisper:
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
            tensors = _tensors(model, SafeFile(file).tensor, device, dtype)
        except (OSError, ValueError, KeyError) as exc:  # another process has removed it, or another version has written it
            logs.warning("kept_checkpoint_unreadable", folder=str(file.parent), reason=_brief(exc))
    if tensors is None:
        with _faults_of(checkpoint.file):
            tensors = _tensors(model, partial(_assemble, checkpoint), device, dtype)
        if kept:
            kept.later(name_of_dtype, tensors)
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
    with ThreadPoolExecutor(READERS, initializer=work_alone) as readers:
        return dict(zip(wanted, readers.map(placed, wanted, wanted.values()), strict=True))


def _assemble(checkpoint: Checkpoint, name: str) -> Tensor:
    """One of our tensors from the checkpoint's: joined, a missing key bias as zeros, queries scaled."""
    if name in _TENSORS:
        return _required(checkpoint, _TENSORS[name][checkpoint.layout])
    module, _, kind = name.rpartition(".")
    if module in _MODULES:
        sources = [_MODULES[module][checkpoint.layout]]
    else:
        side, _, number, inner = module.split(".", 3)
        prefix = _LAYERS[checkpoint.layout].format(side=side) + number
        separator = "/" if checkpoint.layout == _CTRANSLATE2 else "."
        sources = [f"{prefix}{separator}{part}" for part in _IN_LAYER[inner][checkpoint.layout].split()]
    parts = [_part(checkpoint, source, kind) for source in sources]
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
    if checkpoint.layout == _CTRANSLATE2:
        norm = module.endswith("layer_norm")
        return _required(checkpoint, f"{module}/{ ({'weight': 'gamma', 'bias': 'beta'}[kind] if norm else kind) }")
    found = checkpoint.read(f"{module}.{kind}")
    if found is None and kind == "bias" and module.endswith(("k_proj", "key")):  # keys have none
        return torch.zeros(_required(checkpoint, f"{module}.weight").shape[0])
    return found if found is not None else _required(checkpoint, f"{module}.{kind}")


def _required(checkpoint: Checkpoint, name: str) -> Tensor:
    tensor = checkpoint.read(name)
    if tensor is None:
        raise ValueError(f"it has no tensor {name}")
    return tensor


def _open_transformers(path: Path) -> Checkpoint:
    config = _config(path.parent, "config.json")
    if config.get("model_type") != "whisper":
        raise ModelUnavailable(f"config.json names a model of type {config.get('model_type')!r}; {KINDS} work")
    files = {path.name: path}
    if path.name.endswith(".index.json"):
        names = sorted(set(json.loads(path.read_text())["weight_map"].values()))
        files = {name: path.parent / name for name in names}
    readers = []
    for name, file in files.items():
        if not file.is_file():
            raise ModelUnavailable(f"{name} is missing from model folder {path.parent.name}")
        with _faults_of(name):
            readers.append(SafeFile(file))
    where = {key: reader for reader in readers for key in reader.names()}
    # WhisperForConditionalGeneration says model.encoder…, WhisperModel says encoder…
    short = "" if any(key.startswith("model.") for key in where) else "model."

    def read(key: str) -> Tensor | None:
        key = key.removeprefix(short)
        return where[key].tensor(key) if key in where else None

    generation = _config(path.parent, "generation_config.json", required=False)
    suppress = generation.get("suppress_tokens", config.get("suppress_tokens"))
    return Checkpoint(
        path.name,
        _TRANSFORMERS,
        Dims(
            n_mels=config["num_mel_bins"],
            n_audio_ctx=config["max_source_positions"],
            n_audio_state=config["d_model"],
            n_audio_head=config["encoder_attention_heads"],
            n_audio_layer=config["encoder_layers"],
            n_vocab=config["vocab_size"],
            n_text_ctx=config["max_target_positions"],
            n_text_state=config["d_model"],
            n_text_head=config["decoder_attention_heads"],
            n_text_layer=config["decoder_layers"],
        ),
        read,
        tuple(suppress) if suppress else None,
        _pairs(generation.get("alignment_heads")),
    )


def _open_openai(path: Path) -> Checkpoint:
    saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not (isinstance(saved, dict) and {"dims", "model_state_dict"} <= set(saved)):
        raise ValueError("expected the entries dims and model_state_dict")
    return Checkpoint(path.name, _OPENAI, Dims(**saved["dims"]), saved["model_state_dict"].get)


def _open_ctranslate2(path: Path) -> Checkpoint:
    with path.open("rb") as file:
        variables = dict(variables_in(file))
    config = _config(path.parent, "config.json", required=False)
    mapped = np.memmap(path, dtype=np.uint8, mode="r")

    def stored(name: str) -> Tensor | None:
        if name not in variables:
            return None
        shape, dtype, at, size = variables[name]
        raw = torch.from_numpy(mapped[at : at + size].copy())
        return raw.view(dtype).reshape(shape)

    def read(name: str) -> Tensor | None:
        tensor, scale = stored(name), stored(f"{name}_scale")
        if tensor is None or scale is None:
            return tensor
        return tensor.float() / scale.float().reshape(-1, *[1] * (tensor.dim() - 1))

    def shape(name: str) -> tuple[int, ...]:
        if name not in variables:
            raise ValueError(f"it has no variable {name}")
        return variables[name][0]

    def heads(side: str) -> int:
        tensor = stored(f"{side}/num_heads")
        return int(tensor) if tensor is not None else shape(f"{side}/position_encodings/encodings")[1] // 64

    def layers(side: str) -> int:
        return len({name.split("/")[1] for name in variables if name.startswith(f"{side}/layer_") and "/ffn/" in name})

    state, n_mels, _ = shape("encoder/conv1/weight")
    n_vocab, text_state = shape("decoder/embeddings/weight")
    return Checkpoint(
        path.name,
        _CTRANSLATE2,
        Dims(
            n_mels=n_mels,
            n_audio_ctx=shape("encoder/position_encodings/encodings")[0],
            n_audio_state=state,
            n_audio_head=heads("encoder"),
            n_audio_layer=layers("encoder"),
            n_vocab=n_vocab,
            n_text_ctx=shape("decoder/position_encodings/encodings")[0],
            n_text_state=text_state,
            n_text_head=heads("decoder"),
            n_text_layer=layers("decoder"),
        ),
        read,
        tuple(config["suppress_ids"]) if config.get("suppress_ids") else None,
        _pairs(config.get("alignment_heads")),
    )


def _config(folder: Path, name: str, required: bool = True) -> dict[str, Any]:
    path = folder / name
    if not path.is_file() and not required:
        return {}
    with _faults_of(name):
        if not path.is_file():
            raise ModelUnavailable(f"{name} is missing from model folder {folder.name}")
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("expected a JSON object")
        return content


def _pairs(heads: object) -> tuple[tuple[int, int], ...]:
    return tuple((int(layer), int(head)) for layer, head in heads) if isinstance(heads, list) else ()
