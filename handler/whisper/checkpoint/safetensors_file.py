"""Read tensors from a safetensors file. Knows no checkpoint.

Each tensor is memory-mapped separately, so the memory of a tensor is released together with the tensor. Source of the
format: huggingface/safetensors, README.md.
"""

import math
import mmap
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handler.engine.json_file import parse_json

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
_MAX_HEADER_BYTES = 16 * 1024**2  # that of Whisper large takes 150 kB
_MAX_RANK = 8


@dataclass(frozen=True, slots=True)
class _Entry:
    """The header's description of a tensor. `start` and `end` are in bytes from the end of the header."""

    dtype: torch.dtype
    shape: list[int]
    start: int
    end: int

    @classmethod
    def parse(cls, name: str, entry: Any, data_size: int) -> "_Entry":
        """Parse the header's JSON object for one tensor.

        Raises ValueError if the object is malformed, if the tensor does not lie inside of the `data_size` bytes after
        the header, or if its shape and dtype need another number of bytes.
        """
        if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str) or entry["dtype"] not in _DTYPES:
            raise ValueError(f"{name} has no known dtype")
        dtype, shape, offsets = _DTYPES[entry["dtype"]], _sizes(entry.get("shape")), _sizes(entry.get("data_offsets"))
        if shape is None or offsets is None or len(offsets) != 2:
            raise ValueError(f"{name} has no shape or no offsets")
        start, end = offsets
        if end > data_size:
            raise ValueError(f"the file ends inside {name}")
        if end - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} has {end - start} bytes, expected {math.prod(shape) * dtype.itemsize}")
        return cls(dtype, shape, start, end)


def _sizes(value: Any) -> list[int] | None:
    """Return the value if it is a short list of whole numbers, and None otherwise."""
    if not isinstance(value, list) or len(value) > _MAX_RANK:
        return None
    return value if all(type(number) is int and 0 <= number < 2**63 for number in value) else None


class SafetensorsFile:
    """A safetensors file whose tensors are mapped on demand.

    `tensor` may be called from several threads at once.
    """

    def __init__(self, path: Path) -> None:
        """Read the header of the file at `path`.

        Raises OSError if the file cannot be read, and ValueError if the file is damaged or truncated, or if tensors
        overlap.
        """
        self._path = path
        with path.open("rb") as file:
            self.size = os.fstat(file.fileno()).st_size  # bytes of the file
            header_size = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            self._data_start = _LENGTH_BYTES + header_size
            if not 0 < header_size <= _MAX_HEADER_BYTES or self._data_start > self.size:
                raise ValueError("the file ends inside its header")
            header = parse_json(file.read(header_size))
        header.pop("__metadata__", None)
        data_size = self.size - self._data_start
        self._entries = {name: _Entry.parse(name, entry, data_size) for name, entry in header.items()}
        spans = sorted((entry.start, entry.end, name) for name, entry in self._entries.items())
        for (_, end, name), (start, _, next_name) in pairwise(spans):
            if start < end:
                raise ValueError(f"{name} and {next_name} overlap")

    def shapes(self) -> dict[str, list[int]]:
        """Return the shape of each tensor in the file, by its name."""
        return {name: entry.shape for name, entry in self._entries.items()}

    def tensor(self, name: str) -> Tensor:
        """Return the tensor of the given name, whose memory is a private mapping of the file.

        The mapping lasts as long as the tensor. Writing to the tensor does not change the file. Raises KeyError if
        there is no such tensor, OSError if the file cannot be read, and ValueError if it has become shorter.
        """
        entry = self._entries[name]
        size = entry.end - entry.start
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
