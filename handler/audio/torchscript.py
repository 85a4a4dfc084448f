"""Read the tensors of a TorchScript archive without compiling or running the program in it. Knows no network.

An archive is a zip file that contains one pickle for the modules and one file for the storage of each tensor.
Source: pytorch/pytorch, torch/csrc/jit/serialization/unpickler.cpp.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def tensors_in(path: Path) -> dict[str, Array]:
    """Return every tensor of an archive by its dotted name, such as "encoder.0.bias". All tensors must be float32.

    Raises OSError, BadZipFile, UnpicklingError, KeyError, ValueError.
    """
    with ZipFile(path) as archive:
        (pickle_name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = _Unpickler(archive, pickle_name.removesuffix(".pkl")).load()
    return dict(_walk(root, ""))


class _Module:
    """A module of the network, with its submodules and tensors as attributes."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _Unpickler(pickle.Unpickler):
    """Builds `_Module` objects and arrays from a pickle. Raises UnpicklingError for references to anything else."""

    def __init__(self, archive: ZipFile, storages: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{storages}.pkl")))
        self._archive = archive
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__."):
            return _Module
        if f"{module}.{name}" not in _ALLOWED:
            raise pickle.UnpicklingError(f"expected modules and tensors; found {module}.{name}")
        return _ALLOWED[f"{module}.{name}"]

    def persistent_load(self, storage_id: Any) -> Array:
        _, dtype, key, *_ = storage_id
        return np.frombuffer(bytearray(self._archive.read(f"{self._storages}/{key}")), dtype)


def _array(storage: Array, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> Array:
    """Return a tensor as a view of its storage [n]. `offset` and `strides` are counted in elements.

    Raises UnpicklingError if the tensor would reach beyond the storage.
    """
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
