"""The common form of an opened Whisper checkpoint, whatever its layout. Knows no single layout.

A layout is the file format of a checkpoint together with the names of its tensors.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handler.engine.json_file import read_json
from handler.errors import AsrError, ModelUnavailable
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
    size: int  # bytes of all weight files
    read: Callable[
        [str], Tensor | None
    ]  # returns the tensor of a name in the layout, or None if there is no such tensor
    suppress: tuple[int, ...] | None = None  # text tokens that must not be decoded; None if the checkpoint lists none
    alignment_heads: tuple[tuple[int, int], ...] = ()  # (layer, head) pairs that time words; empty if not listed


# Fields of Dims, each with the tensor of the network whose shape shows it, and the axis.
_SHAPES = {
    "n_mels": ("encoder.conv1.weight", 1),
    "n_audio_ctx": ("encoder.positions", 0),
    "n_audio_state": ("encoder.positions", 1),
    "n_vocab": ("decoder.tokens.weight", 0),
    "n_text_ctx": ("decoder.positions", 0),
    "n_text_state": ("decoder.positions", 1),
}


def check_dims(
    checkpoint: Checkpoint,
    shapes: Mapping[str, Sequence[int]],
    file: str,
    fields: Mapping[str, str] | None = None,
) -> Checkpoint:
    """Return the checkpoint if the sizes that `file` states match its tensors.

    `shapes` has the shape of each tensor by its name in the layout. `fields` leads from each field of Dims to its name
    in `file`; None if the names are the same. A tensor that is missing is left for the loader to report. Raises
    ModelUnavailable.
    """
    fields, names = fields or {}, checkpoint.names
    for field, (target, axis) in _SHAPES.items():
        name = names.tensors.get(target) or names.parameter(names.modules[target.rpartition(".")[0]], "weight")
        size, shape = getattr(checkpoint.dims, field), list(shapes.get(name, ()))
        if name in shapes and shape[axis : axis + 1] != [size]:
            weights = f"{name} in {checkpoint.file} is {shape}"
            raise ModelUnavailable(f"{file}: {fields.get(field, field)} is {size}, but {weights}")
    for field, side in (("n_audio_layer", "encoder"), ("n_text_layer", "decoder")):
        stated, found = getattr(checkpoint.dims, field), layer_numbers(names, side, shapes)
        if found != set(map(str, range(stated))):
            weights = f"{checkpoint.file} has the tensors of {len(found)} layers"
            raise ModelUnavailable(f"{file}: {fields.get(field, field)} is {stated}, but {weights}")
    return checkpoint


def layer_numbers(names: TensorNames, side: str, tensors: Iterable[str]) -> set[str]:
    """Return the numbers, as written in the names of tensors, of the layers of `side`, "encoder" or "decoder"."""
    prefix = names.layer.format(side=side)
    inner = (name.removeprefix(prefix) for name in tensors if name.startswith(prefix))
    return {number for number in (name.partition(names.separator)[0] for name in inner) if number.isdecimal()}


@contextmanager
def checkpoint_errors(file: str) -> Iterator[None]:
    """Raise ModelUnavailable, with the file's name in its message, if the block fails to read the file.

    PyTorch raises errors of any type for a file that is damaged. Those that have nothing to do with the file are raised
    unchanged: errors of the device, lack of memory, and an error that is already a ModelUnavailable.
    """
    try:
        yield
    except (AsrError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as exc:
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
    if not path.exists() and not required:
        return {}
    if not path.is_file():
        raise ModelUnavailable(f"{name} is missing from model folder {folder.name}, or is no file")
    with checkpoint_errors(name):
        return read_json(path)
