"""Tensors of a safetensors file, each mapped by itself: what lets go of one lets go of its part of the file. Knows no checkpoint.

Source of the format: huggingface/safetensors, README.md.
"""

import json
import math
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_LENGTH_BYTES = 8
_LONGEST_HEADER = 100 * 1024**2  # bytes, as the reference implementation has it


class SafetensorsFile:
    """What a file holds; `tensor` may be called from several threads at once."""

    def __init__(self, path: Path) -> None:
        """Read what is in it. Raises OSError, ValueError, KeyError."""
        self._path = path
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            self._begin = _LENGTH_BYTES + length
            if not 0 < length <= _LONGEST_HEADER or self._begin > size:
                raise ValueError("the file ends inside its header")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        self._entries = {name: (_DTYPES[entry["dtype"]], entry["shape"], *entry["data_offsets"]) for name, entry in header.items()}
        for name, (_, _, _, end) in self._entries.items():
            if self._begin + end > size:
                raise ValueError(f"the file ends inside {name}")

    def names(self) -> Iterable[str]:
        """The names of its tensors."""
        return self._entries

    def tensor(self, name: str) -> Tensor:
        """A tensor that is the file's own bytes, mapped for as long as it lives; what is written to it stays with it.

        Raises OSError, ValueError, KeyError.
        """
        dtype, shape, begin, end = self._entries[name]
        length, wanted = end - begin, math.prod(shape) * dtype.itemsize
        if length != wanted:
            raise ValueError(f"{name} has {length} bytes, expected {wanted}")
        if not length:
            return torch.empty(shape, dtype=dtype)
        begin += self._begin
        page = begin - begin % mmap.ALLOCATIONGRANULARITY
        with self._path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), begin + length - page, access=mmap.ACCESS_COPY, offset=page)
        mapped.madvise(mmap.MADV_WILLNEED)  # read it from here on, all at once
        raw = torch.frombuffer(mapped, dtype=torch.uint8, count=length, offset=begin - page)
        if begin % dtype.itemsize:  # an old file: its header is of any length
            raw = raw.clone()
        return raw.view(dtype).reshape(shape)
