"""Cache converted checkpoints on disk. Knows no layout and no network.

A conversion holds the weights of a checkpoint in one dtype, with the tensor names of this project. It is a folder with
one safetensors file and the checksums of the file's blocks.
Verifying a conversion does not need PyTorch, so it can run while PyTorch is being imported.
"""

import contextlib
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from handler import logs
from handler.engine.fingerprint import fingerprint
from handler.engine.json_file import read_json
from handler.engine.kept_folders import new_folder

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1  # version of the tensors' names and content; conversions of other versions are ignored
BLOCK_BYTES = 8 * 1024**2
READERS = 8  # threads; a single thread cannot use the full bandwidth of a network disk
T = TypeVar("T")
_WEIGHTS, _SUMS = "model.safetensors", "sums.json"


class ConversionCache:
    """The conversions of one checkpoint file, in one folder per dtype (such as "float16")."""

    def __init__(self, model_dirs: Sequence[Path], source: Path, stop: threading.Event | None = None) -> None:
        """Look for conversions of `source` in all `model_dirs`, and write new ones to the last of these folders.

        Setting the event `stop` from another thread makes `verify` end early. Raises OSError if `source` is unreadable.
        """
        self._folders = [model_dir / "converted" / _key(source) for model_dir in model_dirs]
        self._stop = stop or threading.Event()
        self._verified: dict[str, Path] = {}
        self._scheduled: tuple[str, dict[str, Tensor]] | None = None

    def verify(self, dtype: str | None = None) -> None:
        """Check the conversions to `dtype`, or to any dtype if `dtype` is None, against their checksums.

        Reading the conversions also brings their files into the page cache, so that loading is fast. A damaged
        conversion is removed. A conversion that cannot be read at present is skipped. Both cases log a warning.
        """
        for folder in chain.from_iterable(base.glob(dtype or "[!.]*") for base in self._folders):
            try:
                is_intact = self._is_intact(folder)
            except OSError as exc:
                logs.warning("kept_checkpoint_unreadable", folder=str(folder), reason=exc.strerror)
                continue
            if is_intact:
                self._verified.setdefault(folder.name, folder / _WEIGHTS)
                with contextlib.suppress(OSError):  # a read-only folder, from which nothing is removed
                    os.utime(folder.parent)
            elif not self._stop.is_set():
                logs.warning("kept_checkpoint_damaged", folder=str(folder))
                shutil.rmtree(folder, ignore_errors=True)

    def _is_intact(self, folder: Path) -> bool:
        """Return whether a conversion matches the recorded size and checksums, or False if stopped. Raises OSError."""
        weights, sums = folder / _WEIGHTS, folder / _SUMS
        if not (weights.is_file() and sums.is_file()):
            return False
        try:
            expected = read_json(sums)
            if weights.stat().st_size != expected["size"]:
                return False
            return _map_blocks(weights, self._stop, _sha256) == expected["sha256"]
        except (ValueError, KeyError):
            return False

    def file(self, dtype: str) -> Path | None:
        """Return the file of the conversion to `dtype`, or None if `verify` has found no intact one."""
        return self._verified.get(dtype)

    def path(self, dtype: str) -> Path:
        """Return the path that the conversion to `dtype` is written to."""
        return self._folders[-1] / dtype / _WEIGHTS

    def has_any(self) -> bool:
        """Return whether `verify` has found an intact conversion to any dtype."""
        return bool(self._verified)

    def schedule_write(self, dtype: str, tensors: "Mapping[str, Tensor]") -> None:
        """Keep the tensors of a new conversion to `dtype` until `write` writes them."""
        self._scheduled = dtype, dict(tensors)

    def write(self) -> None:
        """Write the conversion that `schedule_write` has kept, so that the next process can read it.

        Do nothing if none is kept. Also remove what nobody uses any more (see `new_folder`). If writing fails, for
        example because the disk is full or read-only, log a warning and raise nothing.
        """
        if self._scheduled is None:
            return
        (dtype, tensors), self._scheduled = self._scheduled, None
        target = self.path(dtype).parent
        try:
            with new_folder(target) as draft:
                _write(draft, tensors)
        except Exception as exc:  # safetensors raises an error of its own type if the disk is full
            if not target.is_dir():  # otherwise another process has written it first
                logs.warning("conversion_not_kept", folder=str(target), reason=str(exc) or type(exc).__name__)


def _write(folder: Path, tensors: "dict[str, Tensor]") -> None:
    """Write tensors and checksums to a folder. Raises OSError, SafetensorError."""
    from safetensors.torch import save_file

    weights = folder / _WEIGHTS
    save_file(tensors, weights)
    sums = {"size": weights.stat().st_size, "sha256": list(_block_sums(weights))}
    (folder / _SUMS).write_text(json.dumps(sums))
    weights.chmod(0o644)  # safetensors files are readable only by their owner by default


def read_ahead(path: Path, stop: threading.Event) -> None:
    """Read a file with several threads to bring it into the page cache.

    Return early once the event `stop` is set. Raises OSError.
    """
    _map_blocks(path, stop, len)


def _map_blocks(path: Path, stop: threading.Event, function: Callable[[bytes], T]) -> list[T | None]:
    """Apply `function` to each block of a file with several threads, and return the results in the order of the blocks.

    The result is None for a block that is not read because `stop` has been set. Raises OSError.
    """

    def read(offset: int) -> T | None:
        return None if stop.is_set() else function(os.pread(file.fileno(), BLOCK_BYTES, offset))

    with path.open("rb") as file, ThreadPoolExecutor(READERS) as readers:
        offsets = range(0, os.fstat(file.fileno()).st_size, BLOCK_BYTES)
        return list(readers.map(read, offsets))


def _block_sums(path: Path) -> Iterator[str]:
    """Yield the SHA-256 of each block of a file.

    No threads are used, because the interpreter cannot start threads while it shuts down.
    """
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield _sha256(block)


def _sha256(block: bytes) -> str:
    return hashlib.sha256(block).hexdigest()


def _key(source: Path) -> str:
    """Return the name of the folder that holds the conversions of a file. Raises OSError."""
    return hashlib.sha256(f"{FORMAT} {fingerprint(source)}".encode()).hexdigest()[:24]
