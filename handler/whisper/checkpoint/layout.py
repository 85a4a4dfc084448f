"""The opened form of every layout of a Whisper checkpoint: sizes, tensor names, a reader. Knows no single layout."""

import json
import pickle
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handler.errors import ModelUnavailable
from handler.whisper.dims import Dims

KINDS = "Whisper checkpoints of transformers (safetensors), openai-whisper (.pt) and CTranslate2 (model.bin)"


@dataclass(frozen=True, slots=True)
class TensorNames:
    """A layout's names of the network's tensors, by our names.

    Several names separated by spaces are joined along their first dimension.
    """

    layer: str  # prefix of a layer's number, with {side} for encoder or decoder
    in_layer: Mapping[str, str]  # modules of a layer
    modules: Mapping[str, str]  # modules outside of the layers
    tensors: Mapping[str, str]  # tensors that belong to no module
    separator: str = "."  # between the parts of a name
    norm_parameters: Mapping[str, str] | None = None  # of layer norms, if not weight and bias

    def modules_of(self, module: str) -> list[str]:
        """Return the layout's modules that make up one of ours."""
        if module in self.modules:
            return [self.modules[module]]
        side, _, number, inner = module.split(".", 3)
        prefix = self.layer.format(side=side) + number
        return [f"{prefix}{self.separator}{part}" for part in self.in_layer[inner].split()]

    def parameter(self, module: str, kind: str) -> str:
        """Return the name of a module's `weight` or `bias`."""
        if self.norm_parameters is not None and module.endswith("layer_norm"):
            kind = self.norm_parameters[kind]
        return f"{module}{self.separator}{kind}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint: its sizes, and a reader of its tensors."""

    file: str  # name of the file, or of the index of the files, for messages
    names: TensorNames
    dims: Dims
    read: Callable[
        [str], Tensor | None
    ]  # return a tensor by its name in the file; None if the file has none of the name
    suppress: tuple[int, ...] | None = None  # text ids that are never decoded, if the checkpoint lists them
    alignment_heads: tuple[tuple[int, int], ...] = ()  # (layer, head) pairs whose cross-attention follows time


# What readers raise for a file that is incomplete, damaged or foreign.
_READ_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    EOFError,
    RuntimeError,
    struct.error,
    pickle.UnpicklingError,
)


@contextmanager
def checkpoint_errors(file: str) -> Iterator[None]:
    """Map what a reader of weights raises to ModelUnavailable with the file's name; OutOfMemoryError passes."""
    try:
        yield
    except torch.OutOfMemoryError:  # a RuntimeError, but no fault of the file
        raise
    except _READ_ERRORS as exc:
        reason = summarize_error(exc)
        raise ModelUnavailable(f"{file} is cut, damaged or not a Whisper checkpoint: {reason}") from exc


def summarize_error(exc: BaseException) -> str:
    """Return an error's type and at most 160 characters of the first line of its message."""
    text = (str(exc).strip().splitlines() or [""])[0][:160]
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def read_config(folder: Path, name: str, required: bool = True) -> dict[str, Any]:
    """Read a JSON object of a model folder; `{}` when it is missing and not required. Raises ModelUnavailable."""
    path = folder / name
    if not path.is_file() and not required:
        return {}
    with checkpoint_errors(name):
        if not path.is_file():
            raise ModelUnavailable(f"{name} is missing from model folder {folder.name}")
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("expected a JSON object")
        return content


def head_pairs(heads: object) -> tuple[tuple[int, int], ...]:
    """Return (layer, head) pairs from a configuration's list; empty when it is no list."""
    if not isinstance(heads, list):
        return ()
    return tuple((int(layer), int(head)) for layer, head in heads)
