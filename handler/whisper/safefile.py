"""Tensors of a safetensors file, each read into memory of its own: nothing of the file stays mapped. Knows no checkpoint.

Source of the format: huggingface/safetensors, README.md.
"""

import json
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


class SafeFile:
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
        """A tensor in memory of its own. Raises OSError, ValueError, KeyError."""
        dtype, shape, begin, end = self._entries[name]
        tensor = torch.empty(shape, dtype=dtype)
        if tensor.nbytes != end - begin:
            raise ValueError(f"{name} has {end - begin} bytes, expected {tensor.nbytes}")
        left = tensor.reshape(-1).view(torch.uint8).numpy().data
        with self._path.open("rb", buffering=0) as file:
            file.seek(self._begin + begin)
            while left and (count := file.readinto(left)):
                left = left[count:]
        if left:
            raise ValueError(f"the file ends inside {name}")
        return tensor
