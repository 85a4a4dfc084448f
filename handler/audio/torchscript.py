"""Read the tensors of a TorchScript archive without compiling or running the program in it. Knows no network.

An archive is a zip file that contains one pickle for the modules and one file for the storage of each tensor.
Source: pytorch/pytorch, torch/csrc/jit/serialization/unpickler.cpp.
"""

import io
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np
from numpy.typing import NDArray

from handler.errors import ModelUnavailable

Array = NDArray[np.float32]


_MAX_PICKLE_BYTES = 1024**2
_MAX_FILE_BYTES = 64 * 1024**2  # of a tensor
# What the pickle of a module consists of. Other instructions can ask for memory of any size.
_INSTRUCTIONS = (
    {"PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE"}
    | {"BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1", "BINUNICODE"}
    | {"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"}
    | {"EMPTY_DICT", "SETITEM", "SETITEMS", "BINGET", "BINPUT", "LONG_BINGET", "LONG_BINPUT"}
    | {"GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"}
)


def tensors_in(path: Path) -> dict[str, Array]:
    """Return every tensor of an archive by its dotted name, such as "encoder.0.bias". All tensors must be float32.

    Raises ModelUnavailable if the file is missing, damaged or of another kind.
    """
    try:
        with ZipFile(path) as archive:
            (pickle_name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            root = _Unpickler(archive, pickle_name.removesuffix(".pkl")).load()
        return dict(_walk(root, ""))
    except Exception as exc:  # a damaged archive can raise errors of any type
        raise ModelUnavailable(f"{path.name} is damaged or holds no module: {type(exc).__name__}: {exc}") from exc


def _read(archive: ZipFile, name: str) -> bytes:
    """Return a file of an archive. Raises KeyError or BadZipFile, and ValueError if the file is compressed or too long.

    The largest file is the pickle or a tensor, and none of them is compressed. The archive may claim more than it has.
    """
    info = archive.getinfo(name)
    if info.compress_type != ZIP_STORED or max(info.file_size, info.compress_size) > _MAX_FILE_BYTES:
        raise ValueError(f"expected an uncompressed file of at most {_MAX_FILE_BYTES} bytes: {name}")
    return archive.read(info)


def _checked(content: bytes) -> bytes:
    """Return a pickle. Raises ValueError if it may take much more memory than it has bytes."""
    if len(content) > _MAX_PICKLE_BYTES:
        raise ValueError(f"expected a pickle of at most {_MAX_PICKLE_BYTES} bytes")
    for instruction, argument, _ in pickletools.genops(content):
        is_far = instruction.name == "LONG_BINPUT" and (argument or 0) >= len(content)
        if is_far or instruction.name not in _INSTRUCTIONS:
            raise ValueError(f"expected modules and tensors; found {instruction.name} {argument}")
    return content


class _Module:
    """A module of the network, with its submodules and tensors as attributes."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _Unpickler(pickle.Unpickler):
    """Builds `_Module` objects and arrays from a pickle. Raises UnpicklingError for references to anything else."""

    def __init__(self, archive: ZipFile, storages: str) -> None:
        super().__init__(io.BytesIO(_checked(_read(archive, f"{storages}.pkl"))))
        self._archive = archive
        self._storages = storages
        self._arrays: dict[tuple[Any, Any], Array] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__."):
            return _Module
        if f"{module}.{name}" not in _ALLOWED:
            raise pickle.UnpicklingError(f"expected modules and tensors; found {module}.{name}")
        return _ALLOWED[f"{module}.{name}"]

    def persistent_load(self, storage_id: Any) -> Array:
        _, dtype, key, *_ = storage_id
        if (dtype, key) not in self._arrays:  # several tensors may share a storage
            content = bytearray(_read(self._archive, f"{self._storages}/{key}"))
            self._arrays[dtype, key] = np.frombuffer(content, dtype)
        return self._arrays[dtype, key]


def _array(storage: Array, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> Array:
    """Return a tensor as a view of its storage [n]. `offset` and `strides` are counted in elements.

    Raises UnpicklingError if the tensor would reach beyond the storage, or has more elements than it.
    """
    if prod(shape) > len(storage):
        raise pickle.UnpicklingError("a tensor has more elements than its storage")
    last = offset + sum((count - 1) * stride for count, stride in zip(shape, strides, strict=True))
    if min(offset, *shape, *strides, 0) < 0 or (all(shape) and last >= len(storage)):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    byte_strides = tuple(stride * storage.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, byte_strides)


_ALLOWED = {
    "torch._utils._rebuild_tensor_v2": _array,
    "torch.jit._pickle.build_intlist": list,
    "torch.FloatStorage": np.float32,
    "collections.OrderedDict": OrderedDict,
}


def _walk(module: _Module, prefix: str) -> Iterator[tuple[str, Array]]:
    """Yield the name, with `prefix` before it, and the array of each tensor in a module and its submodules."""
    for name, value in vars(module).items():
        if isinstance(value, _Module):
            yield from _walk(value, f"{prefix}{name}.")
        elif isinstance(value, np.ndarray):
            yield prefix + name, value
