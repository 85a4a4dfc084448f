"""Open a CTranslate2 checkpoint, which is a single model.bin. Knows no other layout."""

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from handler.whisper.checkpoint.config_values import head_pairs, network_dims, token_ids
from handler.whisper.checkpoint.layout import Checkpoint, TensorNames, check_dims, layer_numbers, read_config
from handler.whisper.dims import Dims

NAMES = TensorNames(
    layer="{side}/layer_",
    in_layer={
        "attn_norm": "self_attention/layer_norm",
        "attn.qkv": "self_attention/linear_0",
        "attn.out": "self_attention/linear_1",
        "cross_norm": "attention/layer_norm",
        "cross.q": "attention/linear_0",
        "cross.kv": "attention/linear_1",
        "cross.out": "attention/linear_2",
        "mlp_norm": "ffn/layer_norm",
        "mlp.up": "ffn/linear_0",
        "mlp.down": "ffn/linear_1",
    },
    modules={
        "encoder.conv1": "encoder/conv1",
        "encoder.conv2": "encoder/conv2",
        "encoder.norm": "encoder/layer_norm",
        "decoder.tokens": "decoder/embeddings",
        "decoder.norm": "decoder/layer_norm",
    },
    tensors={
        "encoder.positions": "encoder/position_encodings/encodings",
        "decoder.positions": "decoder/position_encodings/encodings",
    },
    separator="/",
    norm_parameters={"weight": "gamma", "bias": "beta"},
)
TYPES = (
    torch.float32,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.float16,
    torch.bfloat16,
)  # the index is the number that stands for the type in a file
_MAX_VARIABLES = 20_000  # Whisper large has 1 300
_MAX_RANK = 8
_CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Variable:
    """The type and shape of a tensor in a model.bin, and where its bytes are."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int  # bytes from the start of the file
    size: int  # bytes


def variables_in(file: BinaryIO) -> Iterator[tuple[str, Variable]]:
    """Yield the name and description of each variable in a model.bin.

    Raises ValueError if the file is damaged or not a Whisper model of CTranslate2, EOFError if the file is truncated
    inside a variable, and struct.error if it is truncated elsewhere.

    Source: OpenNMT/CTranslate2, src/models/model.cc.
    """

    def read(form: str) -> tuple[Any, ...]:
        raw = file.read(struct.calcsize("<" + form))
        return struct.unpack("<" + form, raw)

    def read_string() -> str:
        raw: bytes = file.read(read("H")[0])
        return raw.rstrip(b"\0").decode()

    file_size = file.seek(0, os.SEEK_END)
    file.seek(0)
    (version,) = read("I")
    spec = read_string() if 2 <= version <= 6 else ""
    if spec != "WhisperSpec":
        raise ValueError(f"expected a CTranslate2 model of spec WhisperSpec; found {spec[:40] or 'something else'!r}")
    _, count = read("II")
    if count > _MAX_VARIABLES:
        raise ValueError(f"expected at most {_MAX_VARIABLES} variables; the file states {count}")
    for _ in range(count):
        name = read_string()
        (rank,) = read("B")
        shape = read(f"{rank}I")
        type_number, size = read("BI")
        offset = file.tell()
        if offset + size > file_size:
            raise EOFError(f"the file ends inside {name}")
        if type_number >= len(TYPES) or rank > _MAX_RANK or size != math.prod(shape) * TYPES[type_number].itemsize:
            raise ValueError(f"{name} has {size} bytes, which does not match its type {type_number} and shape {shape}")
        yield name, Variable(shape, TYPES[type_number], offset, size)
        file.seek(size, os.SEEK_CUR)


class ModelFile:
    """Reads the variables of a memory-mapped model.bin by name."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._variables = dict(variables_in(file))
        self._mapped = np.memmap(path, dtype=np.uint8, mode="r")
        self.size = len(self._mapped)  # bytes of the file

    def stored(self, name: str) -> Tensor | None:
        """Return a variable as it is stored, or None if there is no variable of this name."""
        if name not in self._variables:
            return None
        variable = self._variables[name]
        raw = self._mapped[variable.offset : variable.offset + variable.size].copy()
        return torch.from_numpy(raw).view(variable.dtype).reshape(variable.shape)

    def read(self, name: str) -> Tensor | None:
        """Return a variable, or None if it does not exist. A variable that has a scale is dequantised to float32.

        Raises ValueError if the scale is neither a single number nor one for each row.
        """
        tensor, scale = self.stored(name), self.stored(f"{name}_scale")
        if tensor is None or scale is None:
            return tensor
        if not tensor.dim() or scale.numel() not in (1, len(tensor)):
            raise ValueError(f"{name}_scale has {scale.numel()} numbers for a variable of shape {list(tensor.shape)}")
        return tensor.float() / scale.float().reshape(-1, *[1] * (tensor.dim() - 1))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each variable, by its name."""
        return {name: variable.shape for name, variable in self._variables.items()}

    def heads(self, side: str, state: int) -> int:
        """Return the number of attention heads in each layer of `side`, which is "encoder" or "decoder".

        If the file does not store the number, assume 64 channels per head, as in all published checkpoints. `state` is
        the number of channels. Raises ValueError if the number is stored as several.
        """
        heads = self.stored(f"{side}/num_heads")
        if heads is None:
            return state // 64
        if heads.numel() != 1 or heads.is_floating_point():
            raise ValueError(f"{side}/num_heads is {list(heads.shape)}, expected a whole number")
        return int(heads)


def open_ctranslate2(path: Path) -> Checkpoint:
    """Open the model.bin at `path`.

    Raises ModelUnavailable if config.json is damaged, or if the sizes of the network that follow from the variables are
    impossible. Raises OSError if model.bin is unreadable. Also raises the errors of `variables_in`.
    """
    model = ModelFile(path)
    dims = _dims(path.name, model)
    config = read_config(path.parent, _CONFIG, required=False)
    suppress = token_ids(_CONFIG, "suppress_ids", config.get("suppress_ids"), dims.n_vocab)
    checkpoint = Checkpoint(
        file=path.name,
        names=NAMES,
        dims=dims,
        size=model.size,
        read=model.read,
        suppress=suppress or None,
        alignment_heads=head_pairs(_CONFIG, "alignment_heads", config.get("alignment_heads"), dims),
    )
    return check_dims(checkpoint, model.shapes(), path.name)


def _dims(file: str, model: ModelFile) -> Dims:
    """Return the sizes of the network, taken from the shapes of the variables.

    Raises ModelUnavailable if a size is impossible, and ValueError if a variable is missing.
    """
    shapes = model.shapes()

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if len(shapes.get(name, ())) != rank:
            raise ValueError(f"it has no variable {name} with {rank} axes")
        return shapes[name]

    audio_state, n_mels, _ = shape("encoder/conv1/weight", 3)
    n_vocab, text_state = shape("decoder/embeddings/weight", 2)
    sizes = {
        "n_mels": n_mels,
        "n_audio_ctx": shape("encoder/position_encodings/encodings", 2)[0],
        "n_audio_state": audio_state,
        "n_audio_head": model.heads("encoder", audio_state),
        "n_audio_layer": len(layer_numbers(NAMES, "encoder", shapes)),
        "n_vocab": n_vocab,
        "n_text_ctx": shape("decoder/position_encodings/encodings", 2)[0],
        "n_text_state": text_state,
        "n_text_head": model.heads("decoder", text_state),
        "n_text_layer": len(layer_numbers(NAMES, "decoder", shapes)),
    }
    return network_dims(file, sizes)
