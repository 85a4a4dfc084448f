"""Read tensors from a safetensors file. Knows no checkpoint.

Each tensor is memory-mapped separately, so the memory of a tensor is released together with the tensor. Source of the
format: huggingface/safetensors, README.md.
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
_LENGTH_BYTES = 8  # size of the number at the start of the file that gives the header's length
_MAX_HEADER_BYTES = 100 * 1024**2  # as in the reference implementation


@dataclass(frozen=True, slots=True)
class _Entry:
    """The header's description of a tensor. `start` and `end` are in bytes from the end of the header."""

    dtype: torch.dtype
    shape: list[int]
    start: int
    end: int

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> "_Entry":
        """Parse the header's JSON object for one tensor. Raises KeyError or ValueError if the object is malformed."""
        start, end = entry["data_offsets"]
        return cls(_DTYPES[entry["dtype"]], entry["shape"], start, end)


class SafetensorsFile:
    """A safetensors file whose tensors are mapped on demand.

    `tensor` may be called from several threads at once.
    """

    def __init__(self, path: Path) -> None:
        """Read the header of the file at `path`.

        Raises OSError if the file cannot be read, and ValueError if the file is damaged or truncated. Raises KeyError
        if a tensor has an unknown dtype.
        """
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
        """Return the names of the tensors in the file."""
        return self._entries

    def tensor(self, name: str) -> Tensor:
        """Return the tensor of the given name, whose memory is a private mapping of the file.

        The mapping lasts as long as the tensor. Writing to the tensor does not change the file. Raises KeyError if
        there is no such tensor, and ValueError if the size in the header does not match the shape and dtype. Raises
        OSError if the file cannot be read.
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
        mapping.madvise(mmap.MADV_WILLNEED)  # the kernel starts reading the whole tensor
        raw = torch.frombuffer(mapping, dtype=torch.uint8, count=size, offset=start - page_start)
        if start % entry.dtype.itemsize:  # unaligned, since the header of an old file is not padded
            raw = raw.clone()
        return raw.view(entry.dtype).reshape(entry.shape)
