"""The common form of an opened Whisper checkpoint, whatever its layout. Knows no single layout.

A layout is the file format of a checkpoint together with the names of its tensors.
"""

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
    """How a layout names the modules and tensors of the network.

    Each mapping leads from a name in this project's network to the name in the layout. A value of `in_layer` may hold
    several module names separated by spaces. The tensors of these modules are concatenated along the first dimension.
    """

    layer: str  # what precedes the number of a layer; {side} stands for "encoder" or "decoder"
    in_layer: Mapping[str, str]  # modules inside a layer
    modules: Mapping[str, str]  # modules outside the layers
    tensors: Mapping[str, str]  # tensors that belong to no module
    separator: str = "."  # between the parts of a name
    norm_parameters: Mapping[str, str] | None = None  # names of a layer norm's "weight" and "bias"; None if the same

    def modules_of(self, module: str) -> list[str]:
        """Return the layout's names of the modules that together make up `module` of this project's network."""
        if module in self.modules:
            return [self.modules[module]]
        side, _, number, inner = module.split(".", 3)
        prefix = self.layer.format(side=side) + number
        return [f"{prefix}{self.separator}{part}" for part in self.in_layer[inner].split()]

    def parameter(self, module: str, kind: str) -> str:
        """Return the layout's name of a parameter. `module` is a name in the layout, `kind` is "weight" or "bias"."""
        if self.norm_parameters is not None and module.endswith("layer_norm"):
            kind = self.norm_parameters[kind]
        return f"{module}{self.separator}{kind}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint, whose tensors are read on demand."""

    file: str  # name of the file or of the index of several files, for messages
    names: TensorNames
    dims: Dims
    read: Callable[
        [str], Tensor | None
    ]  # returns the tensor of a name in the layout, or None if there is no such tensor
    suppress: tuple[int, ...] | None = None  # text tokens that must not be decoded; None if the checkpoint lists none
    alignment_heads: tuple[tuple[int, int], ...] = ()  # (layer, head) pairs that time words; empty if not listed


# What readers raise for a file that is incomplete, damaged or not a Whisper checkpoint.
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
    """Raise ModelUnavailable, with the file's name in its message, if the block fails to read the file.

    Errors that have nothing to do with the file, such as torch.OutOfMemoryError, are raised unchanged.
    """
    try:
        yield
    except torch.OutOfMemoryError:  # a RuntimeError, but no fault of the file
        raise
    except _READ_ERRORS as exc:
        reason = summarize_error(exc)
        raise ModelUnavailable(f"{file} is cut, damaged or not a Whisper checkpoint: {reason}") from exc


def summarize_error(exc: BaseException) -> str:
    """Return the type of an error and the first line of the error's message, at most 160 characters of the line."""
    text = (str(exc).strip().splitlines() or [""])[0][:160]
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def read_config(folder: Path, name: str, required: bool = True) -> dict[str, Any]:
    """Read the JSON object in file `name` of a model folder.

    Return an empty dictionary if the file is missing and not required. Raises ModelUnavailable if a required file is
    missing. Also raises ModelUnavailable if the file cannot be read or holds no JSON object.
    """
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
    """Return the (layer, head) pairs in a configuration's list of heads, or an empty tuple if `heads` is no list.

    Raises ValueError or TypeError if an item is no pair of numbers.
    """
    if not isinstance(heads, list):
        return ()
    return tuple((int(layer), int(head)) for layer, head in heads)
