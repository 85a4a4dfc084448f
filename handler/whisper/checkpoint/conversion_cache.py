"""Cache of converted checkpoints: a file of weights each, and checksums of its blocks. Knows no layout and no network.

A folder appears complete, by one rename, so no reader sees half of it; if several processes convert at once, the first
one's folder stays. Verifying needs no PyTorch, so it runs while that is being imported.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from handler import logs
from handler.whisper.checkpoint.fingerprint import fingerprint

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1  # version of the tensors' names and content; conversions of other versions are not read
BLOCK_BYTES = 8 * 1024**2
READERS = 8  # threads: a single one does not use all of a network disk's bandwidth
STALE_DRAFT_S = 24 * 3600.0  # the process that wrote it has ended
UNUSED_S = 60 * 24 * 3600.0  # a conversion that no process has read for so long is removed
T = TypeVar("T")
_WEIGHTS, _SUMS, _DRAFT = "model.safetensors", "sums.json", ".draft-"


class ConversionCache:
    """Conversions of one checkpoint file, one folder for each number format."""

    def __init__(self, model_dirs: Sequence[Path], source: Path, stop: threading.Event | None = None) -> None:
        """Look for conversions of `source` in all `model_dirs`, and write to the last one; `stop` ends long reads."""
        self._folders = [model_dir / "converted" / _key(source) for model_dir in model_dirs]
        self._stop = stop or threading.Event()
        self._verified: dict[str, Path] = {}
        self._scheduled: tuple[str, dict[str, Tensor]] | None = None

    def verify(self, dtype: str | None = None) -> None:
        """Read the conversions of one number format or of all, which brings them into memory, and check their sums.

        Damaged ones are removed. Those that cannot be read at present are skipped.
        """
        for folder in chain.from_iterable(base.glob(dtype or "[!.]*") for base in self._folders):
            try:
                is_intact = self._is_intact(folder)
            except OSError as exc:
                logs.warning("kept_checkpoint_unreadable", folder=str(folder), reason=exc.strerror)
                continue
            if is_intact:
                self._verified.setdefault(folder.name, folder / _WEIGHTS)
                with contextlib.suppress(OSError):  # a read-only image: it cannot be marked as used, nor is it removed
                    os.utime(folder.parent)
            elif not self._stop.is_set():
                logs.warning("kept_checkpoint_damaged", folder=str(folder))
                shutil.rmtree(folder, ignore_errors=True)

    def _is_intact(self, folder: Path) -> bool:
        """Return whether a conversion has its size and sums. Raises OSError."""
        weights, sums = folder / _WEIGHTS, folder / _SUMS
        if not (weights.is_file() and sums.is_file()):
            return False
        try:
            expected = json.loads(sums.read_text())
            if weights.stat().st_size != expected["size"]:
                return False
            return _map_blocks(weights, self._stop, _sha256) == expected["sha256"]
        except (ValueError, KeyError, TypeError):
            return False

    def file(self, dtype: str) -> Path | None:
        """Return the file of a number format if `verify` has found it intact."""
        return self._verified.get(dtype)

    def path(self, dtype: str) -> Path:
        """Return the path that the file of a number format is written to."""
        return self._folders[-1] / dtype / _WEIGHTS

    def has_any(self) -> bool:
        """Return whether `verify` has found a conversion to any number format intact."""
        return bool(self._verified)

    def schedule_write(self, dtype: str, tensors: "Mapping[str, Tensor]") -> None:
        """Remember tensors for `write`."""
        self._scheduled = dtype, dict(tensors)

    def write(self) -> None:
        """Write the scheduled tensors for the next process; log a warning if the disk is full or read-only."""
        if self._scheduled is None:
            return
        (dtype, tensors), self._scheduled = self._scheduled, None
        target = self.path(dtype).parent
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_older(target.parent.glob(f"{_DRAFT}*"), STALE_DRAFT_S)
            siblings = (folder for folder in target.parent.parent.iterdir() if folder != target.parent)
            _remove_older(siblings, UNUSED_S)
            _write_folder(target, tensors)
        except Exception as exc:  # safetensors raises its own for a full disk
            if not target.is_dir():  # else another process was first
                logs.warning("conversion_not_kept", folder=str(target), reason=str(exc) or type(exc).__name__)


def _write_folder(target: Path, tensors: "dict[str, Tensor]") -> None:
    """Write weights and sums to a draft and rename it to `target`. Raises OSError, SafetensorError."""
    from safetensors.torch import save_file

    draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=target.parent))
    try:
        weights = draft / _WEIGHTS
        save_file(tensors, weights)
        sums = {"size": weights.stat().st_size, "sha256": list(_block_sums(weights))}
        (draft / _SUMS).write_text(json.dumps(sums))
        weights.chmod(0o644)  # temporary folders, and files of safetensors, are readable by their owner alone
        draft.chmod(0o755)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_ahead(path: Path, stop: threading.Event) -> None:
    """Bring a file into memory by several threads, until it is complete or `stop` is set. Raises OSError."""
    _map_blocks(path, stop, len)


def _map_blocks(path: Path, stop: threading.Event, function: Callable[[bytes], T]) -> list[T | None]:
    """Apply a function to each block of a file, by several threads; None for blocks after `stop` is set."""

    def read(offset: int) -> T | None:
        return None if stop.is_set() else function(os.pread(file.fileno(), BLOCK_BYTES, offset))

    with path.open("rb") as file, ThreadPoolExecutor(READERS) as readers:
        offsets = range(0, os.fstat(file.fileno()).st_size, BLOCK_BYTES)
        return list(readers.map(read, offsets))


def _block_sums(path: Path) -> Iterator[str]:
    """Yield the SHA-256 of each block, without threads: the interpreter starts none while it ends."""
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield _sha256(block)


def _sha256(block: bytes) -> str:
    return hashlib.sha256(block).hexdigest()


def _key(source: Path) -> str:
    """Return the name of the folder for conversions of a file."""
    return hashlib.sha256(f"{FORMAT} {fingerprint(source)}".encode()).hexdigest()[:24]


def _remove_older(folders: Iterable[Path], age_s: float) -> None:
    """Remove folders that have not been touched for `age_s` seconds."""
    for folder in folders:
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > age_s:
                shutil.rmtree(folder, ignore_errors=True)
