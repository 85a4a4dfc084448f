"""Tensors of a safetensors file, each mapped on its own, so that its part of the file is released with it.

Knows no checkpoint. Source of the format: huggingface/safetensors, README.md.
"""

import json
import math
import mmap
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LENGTH_BYTES = 8  # of the number that gives the header's length
_MAX_HEADER_BYTES = 100 * 1024**2  # as in the reference implementation


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor as the header describes it; offsets in bytes from the end of the header."""

    dtype: torch.dtype
    shape: list[int]
    start: int
    end: int

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> "_Entry":
        """Return a tensor's entry from its part of the header. Raises KeyError, ValueError."""
        start, end = entry["data_offsets"]
        return cls(_DTYPES[entry["dtype"]], entry["shape"], start, end)


class SafetensorsFile:
    """The header of a file, and its tensors on demand; `tensor` may be called from several threads at once."""

    def __init__(self, path: Path) -> None:
        """Read the header. Raises OSError, ValueError, KeyError."""
        self._path = path
        with path.open("rb") as file:
            file_size = os.fstat(file.fileno()).st_size
            header_size = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            self._data_start = _LENGTH_BYTES + header_size
            if not 0 < header_size <= _MAX_HEADER_BYTES or self._data_start > file_size:
                raise ValueError("the file ends inside its header")
            header = json.loads(file.read(header_size))
        header.pop("__metadata__", None)
        self._entries = {name: _Entry.parse(entry) for name, entry in header.items()}
        for name, entry in self._entries.items():
            if self._data_start + entry.end > file_size:
                raise ValueError(f"the file ends inside {name}")

    def names(self) -> Iterable[str]:
        """Return the names of the tensors."""
        return self._entries

    def tensor(self, name: str) -> Tensor:
        """Return a tensor over the file's own bytes, mapped for as long as it lives.

        Writing to it does not change the file. Raises OSError, ValueError, KeyError.
        """
        entry = self._entries[name]
        size, expected = entry.end - entry.start, math.prod(entry.shape) * entry.dtype.itemsize
        if size != expected:
            raise ValueError(f"{name} has {size} bytes, expected {expected}")
        if not size:
            return torch.empty(entry.shape, dtype=entry.dtype)
        start = self._data_start + entry.start
        page_start = start - start % mmap.ALLOCATIONGRANULARITY
        with self._path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), start + size - page_start, access=mmap.ACCESS_COPY, offset=page_start)
        mapping.madvise(mmap.MADV_WILLNEED)  # let the kernel read all of it ahead
        raw = torch.frombuffer(mapping, dtype=torch.uint8, count=size, offset=start - page_start)
        if start % entry.dtype.itemsize:  # an old file, whose header is not padded
            raw = raw.clone()
        return raw.view(entry.dtype).reshape(entry.shape)
