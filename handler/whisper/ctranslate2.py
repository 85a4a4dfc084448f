"""What a CTranslate2 model.bin holds and where. Knows no network."""

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import torch

TYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)


def variables_in(file: BinaryIO) -> Iterator[tuple[str, tuple[tuple[int, ...], torch.dtype, int, int]]]:
    """Name, shape, type, place and size in bytes of each variable. Source: OpenNMT/CTranslate2, src/models/model.cc."""

    def take(form: str) -> tuple[Any, ...]:
        size = struct.calcsize("<" + form)
        raw = file.read(size)
        return struct.unpack("<" + form, raw)

    def string() -> str:
        raw: bytes = file.read(take("H")[0])
        return raw.rstrip(b"\0").decode()

    end = file.seek(0, 2)
    file.seek(0)
    (version,) = take("I")
    spec = string() if 2 <= version <= 6 else ""
    if spec != "WhisperSpec":
        raise ValueError(f"expected a CTranslate2 model of spec WhisperSpec; found {spec or 'something else'!r}")
    _, count = take("II")
    for _ in range(count):
        name = string()
        (rank,) = take("B")
        shape = take(f"{rank}I")
        kind, size = take("BI")
        at = file.tell()
        if at + size > end:
            raise EOFError(f"the file ends inside {name}")
        yield name, (shape, TYPES[kind], at, size)
        file.seek(size, 1)
