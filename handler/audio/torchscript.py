"""The tensors of a TorchScript archive, read as data: no program in it is compiled or run. Knows no network.

An archive is a zip of one pickle and a file for each tensor's storage. Source: pytorch/pytorch, torch/csrc/jit/serialization/unpickler.cpp.
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

Arrays = dict[str, NDArray[np.float32]]


def tensors_in(path: Path) -> Arrays:
    """Every float32 tensor by the dotted name of its place. Raises OSError, BadZipFile, UnpicklingError, KeyError, ValueError."""
    with ZipFile(path) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = _Unpickler(archive, pickled.removesuffix(".pkl")).load()
    return dict(_walk(root, ""))


class _Module:
    """A module of the network: its parts and tensors by name."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _Unpickler(pickle.Unpickler):
    """Makes modules of ours and arrays; whatever else the pickle asks for is refused."""

    def __init__(self, archive: ZipFile, storages: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{storages}.pkl")))
        self._archive = archive
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__."):
            return _Module
        known = {
            "torch._utils._rebuild_tensor_v2": _array, "torch.jit._pickle.build_intlist": list,
            "torch.FloatStorage": np.float32, "collections.OrderedDict": OrderedDict,
        }  # fmt: skip
        if f"{module}.{name}" not in known:
            raise pickle.UnpicklingError(f"expected modules and tensors; found {module}.{name}")
        return known[f"{module}.{name}"]

    def persistent_load(self, found: Any) -> NDArray[np.float32]:
        _, dtype, key, *_ = found
        return np.frombuffer(bytearray(self._archive.read(f"{self._storages}/{key}")), dtype)


def _array(storage: NDArray[np.float32], offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> NDArray[np.float32]:
    last = offset + sum((count - 1) * stride for count, stride in zip(shape, strides, strict=True))
    if min(offset, *shape, *strides, 0) < 0 or (all(shape) and last >= len(storage)):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    apart = tuple(stride * storage.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, apart)


def _walk(module: _Module, prefix: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for name, value in vars(module).items():
        if isinstance(value, _Module):
            yield from _walk(value, f"{prefix}{name}.")
        elif isinstance(value, np.ndarray):
            yield prefix + name, value
