"""Open a CTranslate2 checkpoint, which is a single model.bin. Knows no other layout."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from handler.whisper.checkpoint.layout import Checkpoint, TensorNames, head_pairs, read_config
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


@dataclass(frozen=True, slots=True)
class Variable:
    """The type and shape of a tensor in a model.bin, and where its bytes are."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int  # bytes from the start of the file
    size: int  # bytes


def variables_in(file: BinaryIO) -> Iterator[tuple[str, Variable]]:
    """Yield the name and description of each variable in a model.bin.

    Raises ValueError if the file is not a Whisper model of CTranslate2, EOFError if the file is truncated inside a
    variable, and struct.error or IndexError if it is damaged otherwise.

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
        raise ValueError(f"expected a CTranslate2 model of spec WhisperSpec; found {spec or 'something else'!r}")
    _, count = read("II")
    for _ in range(count):
        name = read_string()
        (rank,) = read("B")
        shape = read(f"{rank}I")
        type_number, size = read("BI")
        offset = file.tell()
        if offset + size > file_size:
            raise EOFError(f"the file ends inside {name}")
        yield name, Variable(shape, TYPES[type_number], offset, size)
        file.seek(size, os.SEEK_CUR)


class _ModelFile:
    """Reads the variables of a memory-mapped model.bin by name."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._variables = dict(variables_in(file))
        self._mapped = np.memmap(path, dtype=np.uint8, mode="r")

    def stored(self, name: str) -> Tensor | None:
        """Return a variable as it is stored, or None if there is no variable of this name."""
        if name not in self._variables:
            return None
        variable = self._variables[name]
        raw = self._mapped[variable.offset : variable.offset + variable.size].copy()
        return torch.from_numpy(raw).view(variable.dtype).reshape(variable.shape)

    def read(self, name: str) -> Tensor | None:
        """Return a variable, or None if it does not exist. A variable that has a scale is dequantised to float32."""
        tensor, scale = self.stored(name), self.stored(f"{name}_scale")
        if tensor is None or scale is None:
            return tensor
        return tensor.float() / scale.float().reshape(-1, *[1] * (tensor.dim() - 1))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a variable. Raises ValueError if there is no variable of this name."""
        if name not in self._variables:
            raise ValueError(f"it has no variable {name}")
        return self._variables[name].shape

    def heads(self, side: str) -> int:
        """Return the number of attention heads in each layer of `side`, which is "encoder" or "decoder".

        If the file does not store the number, assume 64 channels per head, as in all published checkpoints. Raises
        ValueError if the file lacks the variable that gives the number of channels.
        """
        heads = self.stored(f"{side}/num_heads")
        if heads is not None:
            return int(heads)
        return self.shape(f"{side}/position_encodings/encodings")[1] // 64

    def layers(self, side: str) -> int:
        """Return the number of layers of `side`, which is "encoder" or "decoder"."""
        prefix = f"{side}/layer_"
        return len({name.split("/")[1] for name in self._variables if name.startswith(prefix) and "/ffn/" in name})


def open_ctranslate2(path: Path) -> Checkpoint:
    """Open the model.bin at `path`.

    Raises ModelUnavailable if config.json is damaged, and OSError if model.bin is unreadable. Also raises the errors of
    `variables_in`.
    """
    model = _ModelFile(path)
    config = read_config(path.parent, "config.json", required=False)
    suppress = tuple(config.get("suppress_ids") or ())
    return Checkpoint(
        file=path.name,
        names=NAMES,
        dims=_dims(model),
        read=model.read,
        suppress=suppress or None,
        alignment_heads=head_pairs(config.get("alignment_heads")),
    )


def _dims(model: _ModelFile) -> Dims:
    """Return the sizes of the network, taken from the shapes of the variables. Raises ValueError if one is missing."""
    audio_state, n_mels, _ = model.shape("encoder/conv1/weight")
    n_vocab, text_state = model.shape("decoder/embeddings/weight")
    return Dims(
        n_mels=n_mels,
        n_audio_ctx=model.shape("encoder/position_encodings/encodings")[0],
        n_audio_state=audio_state,
        n_audio_head=model.heads("encoder"),
        n_audio_layer=model.layers("encoder"),
        n_vocab=n_vocab,
        n_text_ctx=model.shape("decoder/position_encodings/encodings")[0],
        n_text_state=text_state,
        n_text_head=model.heads("decoder"),
        n_text_layer=model.layers("decoder"),
    )
