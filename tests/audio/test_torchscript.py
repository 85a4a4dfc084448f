"""TorchScript archives as data: their tensors come out, and whoever asks for code or for memory is refused."""

import pickle
import struct
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest

from handler.audio.torchscript import tensors_in
from handler.errors import ModelUnavailable
from tests.support.damage import damaged, gaps
from tests.support.memory import memory_limit

MEMORY = 256 * 1024**2  # bytes that reading an archive may add


@pytest.fixture(scope="module")
def archive_path() -> Path:
    spec = find_spec("silero_vad")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data" / "silero_vad.jit"


def write_archive(path: Path, content: bytes, compression: int = 0, storage: bytes = bytes(16)) -> Path:
    """Write an archive with a pickle and one storage."""
    with ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", content)
        archive.writestr("a/data/0", storage)
    return path


def tensor_pickle(offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """Return a pickle of a module whose only tensor, x, has this place in the storage of four numbers."""

    def integers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"J" + struct.pack("<i", offset)
    tensor += integers(shape) + integers(strides) + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02c__torch__.a\nA\n)\x81}" + text("x") + tensor + b"sb."


def test_a_tensor_is_a_part_of_its_storage(tmp_path: Path) -> None:
    storage = np.arange(4, dtype=np.float32).tobytes()
    path = write_archive(tmp_path / "a.jit", tensor_pickle(1, (3, 1), (1, 1)), storage=storage)
    assert tensors_in(path)["x"].tolist() == [[1.0], [2.0], [3.0]]


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (5,), (1,)),
        (2, (3,), (1,)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (-2, -2), (1, 1)),
        (0, (2,), (1, 1)),
        (0, (2**31 - 1, 2**31 - 1), (0, 0)),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(
    tmp_path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    path = write_archive(tmp_path / "a.jit", tensor_pickle(offset, shape, strides))
    with pytest.raises(ModelUnavailable, match=r"a\.jit is damaged"):
        tensors_in(path)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Path(), 2),
        pickle.dumps(bytearray(10), 5),
        b"\x80\x02]r" + struct.pack("<I", 2**32 - 1) + b".",  # a place that no list of places reaches
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",  # an array of a terabyte
        b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        b"\x80\x02}.",
        b"\x80\x02c__torch__.a\nA\n)\x81q\x00}X\x01\x00\x00\x00xh\x00sb.",  # a module inside of itself
        b"",
        b"\x80\x02" + b"N" * 2_000_000 + b".",
    ],
)
def test_a_pickle_that_asks_for_more_than_tensors_is_refused(tmp_path: Path, content: bytes) -> None:
    path = write_archive(tmp_path / "evil.jit", content)
    with memory_limit(MEMORY), pytest.raises(ModelUnavailable, match=r"evil\.jit is damaged"):
        tensors_in(path)


def write_bomb(path: Path) -> None:
    write_archive(path, tensor_pickle(0, (4,), (1,)), ZIP_DEFLATED, bytes(10**8))


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def write_no_pickle(path: Path) -> None:
    with ZipFile(path, "w") as archive:
        archive.writestr("a/other", b"")


@pytest.mark.parametrize("write", [write_bomb, write_nothing, write_no_pickle, Path.mkdir, lambda path: None])
def test_a_file_that_is_no_archive_of_a_module_is_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "a.jit")
    with memory_limit(MEMORY), pytest.raises(ModelUnavailable, match=r"a\.jit is damaged"):
        tensors_in(tmp_path / "a.jit")


def test_a_damaged_archive_is_refused_by_its_name_or_read(archive_path: Path, tmp_path: Path) -> None:
    content = archive_path.read_bytes()
    with ZipFile(archive_path) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith("/data.pkl"))
        start = content.index(b"\x80\x02", info.header_offset)
        places = [range(start, start + info.file_size), *gaps([(0, archive.start_dir)], len(content))]
    num_refused = 0
    with memory_limit(MEMORY):
        for seed in range(100):
            (tmp_path / "a.jit").write_bytes(damaged(content, places, seed))
            try:
                tensors_in(tmp_path / "a.jit")
            except ModelUnavailable:
                num_refused += 1
    assert num_refused > 50
